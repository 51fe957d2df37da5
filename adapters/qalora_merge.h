// Merging QA-LoRA into the zero points of a quantized layer. The change of a QA-LoRA adapter is the same for all features of a pooling
// group, so that w = scale · code + offset absorbs it exactly in its offsets: the codes stay as they are, and the zero points become
// fractions (kept as scale · zero, so that a scale of zero does no harm).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "graft/adapters/lora_variants.h"
#include "graft/quant/format.h"

namespace graft::adapters {

/// The layer with `shift` [out, in / group] added to the weights of each group of neighbouring input channels. Offsets get the granularity
/// at which both kinds of groups are constant; channels in any order and formats with one group work alike. A shift of zeros gives the very
/// same layer. ValueError unless shift is floating with out rows and a number of columns that divides in, all finite; AttributeError for a
/// layer that does not have its original tensors; one whose zero points were shifted before has them no more.
std::shared_ptr<quant::QuantLinear> with_shifted_zeros(const std::shared_ptr<quant::QuantLinear>& layer, const Tensor& shift);

/// Puts the QA-LoRA adapter `name` of every layer that has it into the layer's zero points, and takes the adapter away (with its wrapper, if
/// it was the last one); what else is active stays so. Trained biases and modules stay in place for good. The layers that have no such
/// adapter stay as they are. ValueError if no layer has it, if a layer's adapter of this name is of another method, and if it has trained
/// biases or modules that are not in place; AttributeError as above, for a second merge into one layer. Nothing changes then.
void merge_qalora(Module& model, const std::string& name = "default");

/// Writes the shifts of adapter `name` to a safetensors file: per layer "<path>.zero_shift" [out, in / group]. With the unchanged base
/// checkpoint, whose fingerprint it names (verify.h), it makes the merged model. FileError, and ValueError as for merge_qalora() and for an adapter
/// with trained biases or modules, which the file has no place for.
void save_zero_shifts(Module& model, const std::filesystem::path& file, const std::string& name = "default");
/// Replaces the quantized layers that a file has shifts for. FileError, and ValueError for a layer that the model does not have and for
/// another base than that of the file (with same_base = false a warning). Nothing changes then.
void load_zero_shifts(Module& model, const std::filesystem::path& file, bool same_base = true);

/// Back to integers, for other programs: the layer in its own layout with the zero points that are nearest to the shifted ones.
struct PackedExport {
  quant::Stored layer;
  double worst_error = 0;    // largest |weight with fractional zero − weight with the integer|, over the largest |weight|
  std::int64_t clipped = 0;  // zero points that did not fit their bits
};
/// ValueError for formats other than GPTQ and AWQ, for groups whose channels are not in order, and for pooling groups that are smaller than
/// the quantization groups: their zero points cannot hold the shift.
PackedExport export_packed(const quant::QuantLinear& layer, const Tensor& shift);

}  // namespace graft::adapters
