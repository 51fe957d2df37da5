// What a storage format is: the names and shapes of a layer's tensors, and what their bits mean. A format is described once, in
// quant/formats/; kernels, checkpoint detection and tests follow from the list in formats/all.h.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/quant/quant_linear.h"

namespace graft::quant {

/// The tensors of one layer as a checkpoint stores them, and what is known about them.
struct Stored {
  std::string module;       // the layer's name, for errors
  Description description;  // how to read the tensors; what it leaves open is settled from the data, or refused
  std::int64_t in = 0, out = 0;
  std::map<std::string, Tensor> tensors;  // by the last part of their names: "qweight", "scales", …; on the CPU
};

/// A layer's integers, read on demand, so that a repacked copy can be made without a second one in between:
/// w[k, n] = scale[g, n] · (code[k, n] − zero[g, n]), or scale · code + offset, with g = groups[k].
struct Decoded {
  Description description;  // with everything settled
  std::int64_t in = 0, out = 0;
  int bits = 4;                      // codes are 0 … 2^bits − 1
  Tensor scales;                     // f32 [groups, out], exactly as stored
  Tensor zeros;                      // f32 [groups, out]; undefined when there are offsets
  Tensor offsets;                    // f32 [groups, out]: formats that store −scale · zero, already rounded
  std::vector<std::int32_t> groups;  // [in]
  std::int64_t group_size = 0;       // groups[k] == k / group_size for all k, or 0 when they do not run in order
  Tensor bias;                       // [out] as stored; undefined if there is none
  DType native = DType::f16;         // what the scales are stored in
  /// Codes of channels [k0, k1) and outputs [n0, n1), to codes[(k − k0) · (n1 − n0) + n − n0]. May be called from several
  /// threads.
  std::function<void(std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1, std::uint8_t* codes)> codes;
};

struct Format {
  std::string_view method;                     // Description::method
  std::span<const std::string_view> layouts;   // values of Description::layout
  std::span<const std::string_view> required;  // tensors that every layer has
  std::span<const std::string_view> optional;  // tensors that a layer may have; any other is refused
  /// Checks every tensor against the others and against the description; ValueError, TypeError or NotImplementedError naming the
  /// module, the tensor, what it is and what was wanted.
  Decoded (*decode)(const Stored& stored);
  /// in and out features, from the shapes alone.
  std::pair<std::int64_t, std::int64_t> (*features)(const Stored& stored);
  /// Besides `layouts`, the one that a config with contradicting labels gets, for decode() to settle; no file and no caller names it.
  std::string_view undecided = {};
};

/// All formats.
std::span<const Format* const> formats();

/// The format of a description's method and layout; ValueError naming those that exist.
const Format& format_of(const Description& description);

/// Decodes by the format that the description names.
Decoded decode(const Stored& stored);

/// Rows [begin, end) of the dense weight [out, in] of a decoded layer, each entry the exact product rounded once: the definition
/// that kernels are tested against.
Tensor dequantize(const Decoded& decoded, std::int64_t begin, std::int64_t end);

/// Mean of code − zero over the layer: near 0 for trained weights, and near ±1 when zero points are misread by one. 0 for
/// offsets.
double mean_distance(const Decoded& decoded);

/// A layer from the tensors of a checkpoint, repacked for the kernels; its bias in `dtype`. It keeps the tensors, to give them
/// back.
std::shared_ptr<QuantLinear> make_layer(const Stored& stored, DType dtype = DType::f32);
/// The same from a decoded layer and the tensors that it came from.
std::shared_ptr<QuantLinear> make_layer(const Decoded& decoded, const std::map<std::string, Tensor>& original,
                                        DType dtype = DType::f32);

}  // namespace graft::quant
