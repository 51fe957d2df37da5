// The ways in which a GPU multiplies with a packed weight, as quant/kernels.h has them for the CPU.
#pragma once

#include <span>
#include <string_view>

#include "graft/quant/kernels.h"

namespace graft::cuda {

/// Runs on the current device. Problems have been checked; a rotated x and u of terms that have their A are the row's to make
/// (prepass.h), bias and terms are the row's to add, before the result is rounded.
struct Product {
  std::string_view name;
  bool (*supports)(const quant::Problem& problem);
  void (*run)(const quant::Problem& problem);
};

/// Preferred first; the last one takes every problem.
std::span<const Product> products();

/// Up to 32 rows of bf16 or f16 and 32 terms, forward.
bool is_skinny(const quant::Problem& problem);
void skinny_product(const quant::Problem& problem);

void chunked_product(const quant::Problem& problem);

// Half types and up to 32 terms, through tiles that are dequantized in shared memory; for what is not skinny. The kernels take any number
// of rows.
bool supports_tiled_sm80(const quant::Problem& problem);
void tiled_product_sm80(const quant::Problem& problem);
bool supports_tiled_sm90a(const quant::Problem& problem);
void tiled_product_sm90a(const quant::Problem& problem);

}  // namespace graft::cuda
