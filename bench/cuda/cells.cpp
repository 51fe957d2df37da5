#include "graft/bench/cuda/cells.h"

#include <cctype>
#include <cmath>

#include "graft/core/error.h"

namespace graft::bench {
namespace {

constexpr Format all_formats[] = {
    {"gptq4g128", 4, 128, true},
    {"gptq4g32", 4, 32, true},
    {"gptq4g64", 4, 64, true},
    {"gptq4", 4, 0, true},
    {"gptq4g128act", 4, 128, true, true},
    {"gptq2g128", 2, 128, true},
    {"gptq3g128", 3, 128, true},
    {"gptq8g128", 8, 128, true},
    {"awq4g128fast", 4, 128, true, false, true},
    {"eetq8", 8, 0, false},
};

std::int64_t groups_of(const Format& format, std::int64_t k) {
  return format.group_size == 0 ? 1 : (k + format.group_size - 1) / format.group_size;
}

}  // namespace

std::span<const Format> formats() { return all_formats; }

const Format& format(std::string_view name) {
  std::string names;
  for (const Format& each : all_formats) {
    if (each.name == name) return each;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", each.name);
  }
  fail("format = \"{}\" is not one of {}", name, names);
}

std::string name(const Cell& cell) {
  std::string name = fmt::format("{}/{}/{}/M:{}/cold", cell.format ? cell.format->name : "dense", cell.dtype,
                                 cell.backward ? "bwd" : "fwd", cell.m);
  if (cell.k != 4096 || cell.n != 4096) name += fmt::format("/K:{}/N:{}", cell.k, cell.n);
  if (cell.rank > 0) name += fmt::format("/lora{}", cell.rank);
  return name;
}

std::string slug(std::string_view words) {
  std::string slug;
  for (const char c : words) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte)) slug += static_cast<char>(std::tolower(byte));
    else if (!slug.empty() && slug.back() != '_') slug += '_';
  }
  if (!slug.empty() && slug.back() == '_') slug.pop_back();
  return slug;
}

std::vector<Cell> core_cells() {
  std::vector<Cell> cells;
  const auto add = [&](std::string_view name, bool backward, std::int64_t k, std::int64_t n,
                       std::initializer_list<std::int64_t> ms, std::int64_t rank = 0, DType dtype = DType::bf16) {
    for (const std::int64_t m : ms) cells.push_back({&format(name), dtype, backward, m, k, n, rank});
  };
  // Rows of one weight follow each other: making it takes longer than measuring it.
  add("gptq4g128", false, 4096, 4096, {1, 16, 64, 256, 1024, 4096});
  add("gptq4g128", false, 4096, 4096, {1, 16, 4096}, 16);
  add("gptq4g128", false, 4096, 4096, {16}, 0, DType::f16);
  add("gptq4g128", true, 4096, 4096, {1, 256, 1024, 4096});
  add("gptq4g128", true, 4096, 4096, {256, 4096}, 16);
  add("gptq4g128", false, 4096, 14336, {1, 16});
  add("gptq4g128", false, 14336, 4096, {1, 256});
  add("gptq4g128", false, 8192, 8192, {1, 4, 16, 64, 256, 4096});
  add("gptq4g128", false, 8192, 28672, {1, 16, 64, 256, 1024, 4096});
  add("gptq4g128", false, 8192, 28672, {1, 4096}, 16);
  add("gptq4g128", true, 8192, 28672, {256, 4096});
  add("gptq4g128act", false, 4096, 4096, {1, 4096});
  add("gptq4g128act", true, 4096, 4096, {4096});
  add("awq4g128fast", false, 4096, 4096, {1, 4096});
  for (const char* name : {"gptq2g128", "gptq3g128", "gptq8g128", "eetq8"}) add(name, false, 8192, 28672, {1});
  return cells;
}

std::vector<Cell> all_cells() {
  constexpr std::pair<std::int64_t, std::int64_t> shapes[] = {
      {4096, 4096}, {4096, 14336}, {14336, 4096}, {8192, 8192}, {8192, 28672}};
  std::vector<Cell> cells;
  for (const Format& format : all_formats)
    for (const auto& [k, n] : shapes)
      for (const DType dtype : {DType::bf16, DType::f16})
        for (const bool backward : {false, true})
          for (const std::int64_t rank : {0, 16, 64})
            for (const std::int64_t m : {1, 4, 16, 64, 256, 1024, 4096})
              cells.push_back({&format, dtype, backward, m, k, n, rank});
  return cells;
}

double weight_bytes(const Cell& cell) {
  const auto k = static_cast<double>(cell.k), n = static_cast<double>(cell.n);
  if (!cell.format) return k * n * static_cast<double>(size_of(cell.dtype));
  const Format& f = *cell.format;
  const double per_group = 2 + (f.zeros ? f.bits / 8.0 : 0);
  const double order = f.act_order ? 4 * k : 0;
  return k * n * f.bits / 8 + static_cast<double>(groups_of(f, cell.k)) * n * per_group + order;
}

Work work(const Cell& cell) {
  const auto m = static_cast<double>(cell.m), k = static_cast<double>(cell.k), n = static_cast<double>(cell.n);
  const auto r = static_cast<double>(cell.rank), size = static_cast<double>(size_of(cell.dtype));
  constexpr double wide = sizeof(float);  // a factor, and what it makes
  Work work{weight_bytes(cell) + size * m * (k + n), 2 * m * k * n};
  work.bytes += wide * r * (k + n);        // A and B
  work.operations += 2 * m * r * (k + n);  // x Aᵀ and what B makes of it; backward, dy B and what A makes of it
  if (cell.backward && cell.rank > 0) {    // dA and dB, from x and dy
    work.bytes += size * m * k + wide * (m * r + r * (k + n));
    work.operations += 2 * m * r * (k + n);
  }
  return work;
}

std::int64_t copies_for(double bytes) {
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(cold_bytes / bytes)));
}

Plan plan_for(double floor_seconds, std::int64_t copies) {
  constexpr double graph = 400e-6, all = 0.15;
  const double rotation = floor_seconds * static_cast<double>(copies);
  const auto rotations = static_cast<std::int64_t>(std::ceil(graph / rotation));
  Plan plan{std::clamp<std::int64_t>(rotations, 1, 16), 0};
  plan.rounds =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(all / (rotation * static_cast<double>(plan.rotations))), 11, 51);
  return plan;
}

double quantile(std::vector<double>& values, double share) {
  check(!values.empty() && share >= 0 && share <= 1, "quantile: a share from 0 to 1 of some values is wanted, not {} of {}",
        share, values.size());
  const auto at = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<std::size_t>(at)];
}

}  // namespace graft::bench
