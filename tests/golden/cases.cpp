// Finds the cases below root() and makes a test of each.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <sstream>

#include "golden.h"
#include "unsupported.h"

namespace golden {
namespace {

namespace fs = std::filesystem;

struct Suite {
  const char* name;
  const char* place;   // below root()
  const char* kind;    // extension of the files that are cases; "/" for folders; "[]" if the place is a list whose rows are
  const char* beside;  // other names there, separated by spaces
  void (*check)(const Case&);
};

constexpr Suite suites[] = {
    {"Decode", "decode", ".safetensors", "README.md", check_decode_case},
    {"Layers", "layers", ".safetensors", "README.md", check_layers_case},
    {"Runs", "runs", "/", "tokens.json", check_runs_case},
    {"Quantizers", "quantizers", ".safetensors", "README.md *_weight.safetensors *_inputs.safetensors", check_quantizers_case},
    {"Adapters", "adapters-0.21", "/", "", check_adapters_case},
    {"Errors", "errors.json", "[]", "", check_errors_case},
    {"Tokenizer", "text/tokenizer_cases.json", "[]", "", check_tokenizer_case},
};
constexpr const char* beside_suites = "README.md models text make *.cpp *.h CMakeLists.txt";

bool matches(const std::string& name, const char* patterns) {
  std::istringstream list(patterns);
  return std::any_of(std::istream_iterator<std::string>(list), {},
                     [&](const std::string& pattern) { return fnmatch(pattern.c_str(), name.c_str(), 0) == 0; });
}

std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> paths{fs::directory_iterator(folder), fs::directory_iterator()};
  std::sort(paths.begin(), paths.end());
  return paths;
}

void surprise(const Case& golden_case) { ADD_FAILURE() << golden_case.path << ": nothing here expects such a file"; }

void missing(const Case& golden_case) { ADD_FAILURE() << golden_case.path << ": there is no such folder of golden data"; }

/// A row's number and the beginning of what it says, in letters that test runners can filter by.
std::string row_name(std::size_t index, std::size_t rows, const Json& row) {
  std::string name = std::to_string(index), text = row.value("what", row.value("text", ""));
  name.insert(0, std::to_string(rows - 1).size() - name.size(), '0');
  bool gap = true;
  for (char c : text) {
    const bool plain = c > 0 && std::isalnum(c);
    if (plain && gap) name += '_';
    if (plain) name += c;
    gap = !plain;
    if (name.size() >= 60) break;
  }
  return name;
}

class Check : public testing::Test {
 public:
  Check(Case golden_case, void (*check)(const Case&)) : case_(std::move(golden_case)), check_(check) {}
  void TestBody() override {
    if (const char* reason = why_unsupported(case_.suite, case_.name)) GTEST_SKIP() << reason;
    check_(case_);
  }

 private:
  Case case_;
  void (*check_)(const Case&);
};

void add(const std::string& suite, const std::string& name, const Case& golden_case, void (*check)(const Case&)) {
  testing::RegisterTest(suite.c_str(), name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                        [=]() -> testing::Test* { return new Check(golden_case, check); });
}
void add(const Case& golden_case, void (*check)(const Case&)) { add(golden_case.suite, golden_case.name, golden_case, check); }

void add_suite(const Suite& suite, const fs::path& place) {
  if (suite.kind == std::string_view("[]")) {
    const Json file = read_json(place);
    const Json& rows = file.is_array() ? file : file.at("errors");
    for (std::size_t i = 0; i < rows.size(); ++i)
      add({suite.name, row_name(i, rows.size(), rows[i]), place, rows[i]}, suite.check);
    return;
  }
  for (const fs::path& path : entries(place)) {
    const std::string name = path.filename().string();
    const bool folder = fs::is_directory(path);
    if (matches(name, suite.beside)) continue;
    const bool expected = folder ? suite.kind == std::string_view("/") : path.extension() == suite.kind;
    add({suite.name, folder ? name : expected ? path.stem().string() : name, path, {}}, expected ? suite.check : surprise);
  }
}

}  // namespace

void add_all() {
  const fs::path folder = root();
  graft::check<graft::FileError>(fs::is_directory(folder), "{}: there is no such folder of golden data", folder.string());
  for (const Suite& suite : suites)
    if (fs::exists(folder / suite.place)) add_suite(suite, folder / suite.place);
  for (const fs::path& path : entries(folder)) {
    const std::string name = path.filename().string();
    const bool known = matches(name, beside_suites) ||
                       std::any_of(std::begin(suites), std::end(suites), [&](auto& s) { return name == s.place; });
    if (!known) add({"Unknown", name, path, {}}, surprise);
  }
}

void add_for_device() {
  // Not an error at once: this runs before main(), and other tests need no data.
  if (!fs::is_directory(root())) add({"GoldenLayers", "Data", root(), {}}, missing);
  const auto below = [](const char* place) {
    return fs::is_directory(root() / place) ? entries(root() / place) : std::vector<fs::path>();
  };
  for (const fs::path& path : below("layers")) {
    if (path.extension() != ".safetensors") continue;
    const std::string name = path.stem().string();
    add("GoldenLayers", name, {"Layers", name, path, {}}, check_layers_case);
  }
  for (const fs::path& path : below("runs")) {
    if (!fs::is_directory(path)) continue;
    std::string name = path.filename().string();
    std::replace(name.begin(), name.end(), '-', '_');  // which filters read as "but not"
    add("GoldenRuns", name, {"Runs", path.filename().string(), path, {}}, check_runs_case);
  }
}

}  // namespace golden
