// Adapters and the layers that carry them.
//
// An Adapter is one trained change of one linear layer: its parameters, and its mathematics written in operations. An AdapterLayer
// stands in the place of a linear layer, keeps any number of named adapters, and applies those that are active. Neither knows what
// the base layer is made of, so every method works on every format.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graft/adapters/config.h"
#include "graft/autograd/linear.h"

namespace graft {

/// The layer's weight [out, in] if that is what it computes with; undefined for a quantized layer.
Tensor dense_weight(const LinearBase& layer);

/// What an adapter may need to know of the layer that calls it.
struct AdapterCall {
  const LinearBase& base;
  bool training;
};

/// A change of a linear layer's function. Override the one hook that the method needs; a layer applies, in the order of its active
/// adapters, all input() hooks, then the base product, then terms and output() hooks.
class Adapter {
 public:
  virtual ~Adapter() = default;

  /// "lora", "dora", "oft", …
  virtual std::string_view method() const = 0;
  /// For printing: "r=8, scaling=2".
  virtual std::string description() const = 0;
  /// Reports parameters and buffers under PEFT's names, of which the adapter's own is a part: "lora_A.default.weight".
  virtual void visit(Visitor& visitor, const std::string& name) = 0;

  /// The input that the base product gets instead of x [..., in]. In a wider dtype it makes the base compute there; the layer casts back.
  virtual Tensor input(const Tensor& x, const AdapterCall& call) const;
  /// What turns the input, where it is a rotation: input() applies it, or the base's product does, if no other adapter's comes after it.
  virtual std::optional<Rotation> rotation(const Tensor& /*x*/, const AdapterCall&) const { return {}; }
  /// Whether input() does anything. Such adapters are merged before the others, and in the reverse of their order. A
  /// dense layer's result then has x's dtype, under autocast too.
  virtual bool turns_input() const { return false; }
  /// A low-rank share, y += scale · x Aᵀ Bᵀ, which a base may fuse with its own product.
  virtual std::optional<LowRankTerm> term(const Tensor& /*x*/, const AdapterCall&) const { return {}; }
  /// The result that replaces y [..., out], given the layer's input x.
  virtual Tensor output(const Tensor& y, const Tensor& /*x*/, const AdapterCall&) const { return y; }

  /// What a saved adapter holds: the parameters, unless the method stores them in another form (AdaLoRA drops what it masked).
  virtual std::vector<NamedTensor> state(const std::string& name);
  /// Puts into the configuration what the adapter of the layer at `path` learned about it (AdaLoRA's ranks).
  virtual void describe(AdapterConfig& /*config*/, const std::string& /*path*/, const std::string& /*name*/) const {}
  /// Called when a file has filled the parameters.
  virtual void loaded() {}

  /// s = factor · the initial scaling; s = factor · s; and back to the initial one. AttributeError for a method without scaling.
  virtual void set_scale(double factor);
  virtual void scale(double factor);
  virtual void reset_scale() { set_scale(1); }

  /// The dense weight [out, in] with this adapter put into it, and taken out again, in the weight's dtype; `safe` rounds the change
  /// to that dtype before adding it, as PEFT's safe merge does. NotImplementedError for a method without a dense form.
  virtual Tensor merged(const Tensor& weight, bool safe);
  virtual Tensor unmerged(const Tensor& weight);
  /// What it adds to the base's bias [out]; undefined for nothing.
  virtual Tensor bias_delta() const { return {}; }
};

/// What all layers share that got an adapter in one injection; peft_io and model-wide operations keep their notes here.
struct AdapterRecord;

class AdapterLayer : public LinearBase {
 public:
  /// ValueError for a null base.
  AdapterLayer(std::shared_ptr<LinearBase> base_layer, std::string type_name);

  // ---- as a linear layer ----
  std::string type_name() const override { return type_name_; }
  std::string description() const override;
  void visit(Visitor& visitor) override;
  std::int64_t in_features() const override { return base_->in_features(); }
  std::int64_t out_features() const override { return base_->out_features(); }
  Tensor weight() const override { return base_->weight(); }
  Tensor bias() const override { return base_->bias(); }
  /// The packed weight of a quantized base, as the checkpoint stores it; AttributeError for any other base.
  Tensor qweight() const;
  /// [..., in] → [..., out]. Safe to call from many threads, also while others add, remove or switch adapters.
  Tensor forward(const Tensor& x) const override;
  using LinearBase::forward;

  const std::shared_ptr<LinearBase>& base_layer() const { return base_.pointer(); }
  /// The same under the name that PEFT's quantized wrappers have for it.
  const std::shared_ptr<LinearBase>& quant_linear_module() const { return base_.pointer(); }

  /// Puts another layer of the same sizes below the adapters; ValueError otherwise. Not while other threads run forward.
  void replace_base(std::shared_ptr<LinearBase> base_layer);

  // ---- named adapters ----
  /// The first one becomes active and trainable; later ones wait, frozen. ValueError if the name is taken or cannot be one.
  void add_adapter(const std::string& name, std::shared_ptr<Adapter> adapter);
  /// Notes which injection an adapter came from, and whether it is for inference only.
  void adopt(const std::string& name, std::shared_ptr<AdapterRecord> record, bool inference_mode);
  /// ValueError for an unknown or merged adapter. If it was the only active one, the alphabetically first one becomes active.
  void delete_adapter(const std::string& name);
  void rename_adapter(const std::string& from, const std::string& to);
  /// Puts `to`, or nothing, in the place of an active name, which this layer may have no adapter for. Whether that leaves none active
  /// where there was one.
  bool replace_active(const std::string& from, const std::optional<std::string>& to);
  std::vector<std::string> adapter_names() const;
  /// All adapters as they are at one moment: other threads may be adding and removing some.
  struct Named {
    std::string name;
    std::shared_ptr<Adapter> adapter;
    std::shared_ptr<AdapterRecord> record;  // null for one that was added by hand
    bool in_use;                            // active, and the layer is not switched off
    bool trainable;
  };
  std::vector<Named> adapters() const;
  bool has_adapter(const std::string& name) const;
  /// ValueError for an unknown name.
  std::shared_ptr<Adapter> adapter(const std::string& name) const;
  /// Null for an adapter that was added by hand.
  std::shared_ptr<AdapterRecord> record(const std::string& name) const;

  /// Activates these adapters in this order, and freezes the others; names that this layer lacks are remembered and skipped.
  /// `inference_mode` says whether the active ones are frozen too, from now on; without it each stays as it was.
  void set_adapter(const std::vector<std::string>& names, std::optional<bool> inference_mode = {});
  std::vector<std::string> active_adapters() const;
  /// Whether the adapter is active, not switched off, and not for inference only.
  bool trainable(const std::string& name) const;
  /// Switched off, the layer is its base, whatever is active or chosen per call: merged adapters are taken out of it, and nothing is
  /// trainable.
  void enable_adapters(bool enabled);
  bool disable_adapters() const;

  /// ValueError for an unknown adapter.
  void set_scale(const std::string& name, double factor) { adapter(name)->set_scale(factor); }
  /// Multiplies the scaling of the active adapters.
  void scale_layer(double factor);
  /// Divides it; without a factor, back to the initial scaling.
  void unscale_layer(std::optional<double> factor = {});

  // ---- merging into a dense base ----
  /// Puts adapters (by default the active ones) into the base's weight and bias. With `safe_merge` a result that is not finite is a
  /// ValueError and changes nothing. ValueError also for unknown names, and for one that turns the input where others are merged, since it
  /// has to come first; merged ones are warned about. NotImplementedError for a quantized base.
  virtual void merge(bool safe_merge = false, std::optional<std::vector<std::string>> names = {});
  /// Takes all merged adapters out again, last first.
  virtual void unmerge();
  std::vector<std::string> merged_adapters() const;

 private:
  struct Entry {
    std::string name;
    std::shared_ptr<Adapter> adapter;
    std::shared_ptr<AdapterRecord> record = nullptr;
    bool inference = false;
  };
  struct State {
    std::vector<Entry> entries;  // in the order of adding
    std::vector<std::string> active;
    std::vector<std::string> merged;
    bool enabled = true;
    const Entry* find(const std::string& name) const;
    const Entry& at(const std::string& name, const AdapterLayer& layer) const;
    bool trainable(const Entry& entry) const;
  };
  std::shared_ptr<const State> state() const;
  /// Applies f to a copy of the state and publishes it; forward() keeps reading the one that it began with.
  template <class F>
  void change(F&& f);
  static void freeze_or_train(const State& state);

  /// NotImplementedError for a quantized base.
  Tensor mergeable_weight() const;
  Tensor apply(const Tensor& x, const std::vector<const Entry*>& adapters) const;
  Tensor apply_by_row(const Tensor& x, const std::vector<std::string>& names, const State& state) const;

  std::string type_name_;
  Slot<LinearBase> base_;
  mutable std::mutex mutex_;
  std::shared_ptr<const State> state_;
};

}  // namespace graft
