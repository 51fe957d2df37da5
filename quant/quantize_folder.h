// Quantizes a Hugging Face model folder block by block: never more than one block is held in floating point.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "graft/core/module.h"
#include "graft/quant/awq_search.h"
#include "graft/quant/gptq_solver.h"

namespace graft::quant {

/// Linear layers of a block that read the same input.
struct QuantizeStep {
  std::vector<std::string> modules;  // their names below the block: "self_attn.q_proj"
  /// What makes that input, below the block: a norm that multiplies by its weight, or a linear layer, with nothing after it that
  /// would not commute with a factor per channel. AWQ divides its weight by the channel scales; without one, AWQ leaves them
  /// at 1.
  std::string producer;
};

/// What the library cannot know about a model.
class QuantizableModel {
 public:
  virtual ~QuantizableModel() = default;
  virtual std::int64_t blocks() const = 0;
  /// The name of a block in the checkpoint: "model.layers.3".
  virtual std::string prefix(std::int64_t block) const = 0;
  /// Its linear layers, in the order in which the forward pass meets them.
  virtual std::vector<QuantizeStep> steps(std::int64_t block) const = 0;

  // ---- needed by GPTQ and AWQ alone ----
  /// How many calibration batches there are, and what the first block gets of one: any shape that ends in the model's width.
  virtual std::int64_t batches() const = 0;
  virtual Tensor embed(std::int64_t batch) = 0;
  /// A block in f32, with a Slot of a Linear under each name that steps() gives and parameters named as in the checkpoint.
  virtual std::shared_ptr<Module> load(std::int64_t block) = 0;
  /// The block's output for a batch, given its input.
  virtual Tensor forward(Module& block, const Tensor& hidden, std::int64_t batch) = 0;
};

/// GPTQ, AWQ, or plain rounding to a grid (EETQ's or another), without calibration.
using QuantizeMethod = std::variant<GptqSettings, AwqSettings, Grid>;

struct QuantizedModule {
  std::string module = {};    // full name
  double loss = 0;            // GPTQ: GptqResult::loss; AWQ: the least loss of its step's scale search; 0 for plain rounding
  bool uncalibrated = false;  // no calibration token reached it: it was rounded plainly
  bool indefinite = false;    // GPTQ: no damping made its Hessian positive definite: it was rounded plainly
  std::int64_t number = 0, count = 0;  // this is module `number` (from 1) of `count`
};

struct QuantizeOptions {
  std::string layout = {};                                    // as to_stored() names them; empty: usual_layout()
  std::int64_t shard_bytes = std::int64_t{4} << 30;           // of the files that are written
  std::function<void(const QuantizedModule&)> progress = {};  // called after each module; an exception from it ends the work
};

/// Writes `target`, a folder that the original tools open, from the dense folder `source`. GPTQ solves the steps of a block one
/// after the other, each with the inputs that the quantized layers before it give; AWQ searches all of a block with the inputs of
/// the dense model, and compares the layers' own outputs. On any error `target` does not exist afterwards. Errors as
/// FolderWriter's, the searches' and to_stored()'s, and ValueError for a block without the modules that its steps name.
std::vector<QuantizedModule> quantize_folder(const std::filesystem::path& source, const std::filesystem::path& target,
                                             QuantizableModel& model, const QuantizeMethod& method,
                                             const QuantizeOptions& options = {});

}  // namespace graft::quant
