// One LoRA adapter made from several: PEFT's add_weighted_adapter.
#pragma once

#include <string>
#include <vector>

#include "graft/core/module.h"

namespace graft::adapters {

struct CombineOptions {
  /// On the factors A and B one by one, weighted with the root of weight · scaling: "linear", "ties" (Yadav et al., 2023), "dare_linear",
  /// "dare_ties" (Yu et al., 2024), "magnitude_prune"; ranks must be equal. On the whole change, cut back to a rank by its singular
  /// values: the same names with "_svd" behind, and "svd". Side by side, exactly: "cat", whose rank is the sum.
  std::string combination_type = "linear";
  std::int64_t svd_rank = 0;  // 0: the largest rank of the adapters
  double density = 0;         // share of entries that pruning keeps, in (0, 1]; needed by all but linear, svd and cat
  std::string majority_sign_method = "total";  // "total" or "frequency"; for ties
  /// The sign of a weight goes to B alone, so that a negative one subtracts its adapter, and scalings count once. true: as PEFT does it,
  /// the sign goes to A and to B, where it cancels, and the forms with "svd" apply an adapter's scaling twice.
  bool as_peft = false;
  std::uint64_t seed = 0;  // of dare's random pruning
};

/// Adds the adapter `name`, with scaling 1, to every layer that has at least one of `adapters`; it is not active. A single adapter is
/// combined linearly whatever the type. ValueError for unknown adapters, another number of weights than adapters, unequal ranks, an unknown
/// type or a missing density; TypeError for adapters that are not plain LoRA. The model is as before then.
void add_weighted_adapter(Module& model, const std::vector<std::string>& adapters, const std::vector<double>& weights,
                          const std::string& name, const CombineOptions& options = {});

}  // namespace graft::adapters
