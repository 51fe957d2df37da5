// What a checkpoint was understood to be, module by module.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "graft/quant/checkpoint.h"

namespace graft::quant {

struct ModuleReport {
  std::string name;
  Description description;  // its `reading` says why
  std::int64_t in = 0, out = 0;
  bool in_guessed = false;  // packed words are full, and no g_idx says how many input channels are really in the last one
  bool bias = false;
  bool groups_in_order = true;  // false: act-order, with groups scattered over the input channels
  double mean_distance = 0;     // of code − zero over the layer; near ±1 means that zero points are misread by one
  std::string error;            // why the module was refused; the rest is then as far as it was understood
};

struct Report {
  std::string method;                   // empty when nothing is quantized
  std::int64_t tensors = 0, bytes = 0;  // of the whole checkpoint
  std::vector<ModuleReport> modules;    // the quantized ones, in alphabetical order
  std::vector<std::string> others;      // names of all other tensors
};

/// Reads a folder as Checkpoint::open does, with its errors; a module that is refused is in the report with the reason.
Report inspect(const std::filesystem::path& folder, const Choices& choices = {});

/// The report as text, one line a module; a mean of code − zero near ±1 is pointed out.
std::string to_string(const Report& report);

}  // namespace graft::quant
