// Putting adapters into a model.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "graft/adapters/config.h"
#include "graft/adapters/registry.h"

namespace graft {

/// What all layers share that got an adapter in one injection.
struct AdapterRecord {
  AdapterConfig config;
  std::string base_fingerprint = {};  // of the model before the injection; verify.h

  /// A parameter of the model that this adapter has a trained copy of (modules_to_save, bias). The copy stands in the model while the
  /// adapter is active.
  struct Saved {
    std::string path;  // plain: "lm_head.weight", "q_proj.bias"
    Tensor original, copy;
  };
  std::vector<Saved> saved = {};
};

}  // namespace graft

namespace graft::adapters {

struct InjectionReport {
  struct Declined {
    std::string rule, reason;
  };
  struct Target {
    std::string path;
    std::string rule;   // the one that won; empty if none did, or if the layer was of a kind that rules are not asked about
    std::string layer;  // the type that stands there now
    std::vector<Declined> declined;
  };
  std::string adapter_name;
  std::vector<Target> targets;
  std::vector<std::string> excluded;       // matched and left out by exclude_modules or modules_to_save
  std::vector<std::string> outputs;        // linear layers that "all-linear" leaves out as the model's output
  std::vector<std::string> modules_saved;  // trained whole
  std::vector<std::string> warnings;
  std::int64_t trainable_parameters = 0;  // of the whole model, afterwards
  std::int64_t all_parameters = 0;        // packed weights not counted
};
/// One line per target, and the sums.
std::string to_string(const InjectionReport& report);

struct InjectOptions {
  std::string adapter_name = "default";
  Registry registry = Registry::builtin();
  std::uint64_t seed = 0;             // every layer gets a seed of its own from this and its path
  std::string architecture = {};      // "llama", …: chooses targets where the configuration names none
  std::string auto_awq_version = {};  // of the packer, where the checkpoint's AWQ layers do not say; empty: unknown, which passes
  bool strict = true;  // refuse what means nothing for this model: names, layers, keys of patterns, bias, …; false: warn
};

/// Wraps every linear layer that the configuration means and adds the adapter; layers that are wrapped already get it as a further
/// one. The first adapter of a model is active and trainable; from then on nothing else requires a gradient but what `bias` and
/// modules_to_save ask for, of which the adapter trains copies: the originals are back in the model whenever the adapter is not in use
/// (PEFT trains biases where they are). Other threads may run forward meanwhile if all targets are wrapped already and nothing outside of them is
/// trained.
///
/// ValueError when nothing matches (saying whether targets were missing, unknown or all excluded), when a part of the choice means
/// nothing (see strict), when a target is no linear layer or
/// all rules decline (with each rule's reason), when the name is taken, or when a second adapter with bias ≠ "none" or a second
/// trainable AdaLoRA adapter is added; ImportError for an AWQ layer that AutoAWQ before 0.2.0 packed; and whatever validate() and the
/// layers refuse. The model is as before then.
InjectionReport inject(Module& model, const AdapterConfig& config, const InjectOptions& options = {});

/// Dense weights that an initial scheme takes its factors out of (olora, pissa).
class TakenWeights;

// The parts of inject(), for peft_io, which fills the tensors in between: the model is as before until commit_injection(), and again when
// that is never reached.
struct Injection {
  struct Placed {
    std::string path;
    SlotBase* slot;                          // the place in the model
    std::shared_ptr<AdapterLayer> fresh;     // new, around the innermost base, with this adapter alone
    std::shared_ptr<AdapterLayer> existing;  // the wrapper that stands there already; null if none does
  };
  std::vector<Placed> placed;
  std::shared_ptr<AdapterRecord> record;
  InjectionReport report;
  std::shared_ptr<TakenWeights> taken;  // puts them back unless the injection is committed
};
Injection prepare_injection(Module& model, const AdapterConfig& config, const InjectOptions& options);
InjectionReport commit_injection(Module& model, Injection injection);

}  // namespace graft::adapters

template <>
struct fmt::formatter<graft::adapters::InjectionReport> : fmt::formatter<std::string> {
  fmt::format_context::iterator format(const graft::adapters::InjectionReport& report, fmt::format_context& context) const;
};
