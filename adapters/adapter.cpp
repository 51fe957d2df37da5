#include "graft/adapters/adapter.h"

#include <algorithm>

#include "graft/adapters/routing.h"
#include "graft/adapters/warning.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"
#include "graft/quant/quant_linear.h"

namespace graft {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

struct Trainability final : Visitor {
  bool trainable;
  explicit Trainability(bool trainable) : trainable(trainable) {}
  void parameter(std::string_view, Tensor& tensor) override {
    // Unchanged flags are not written: other threads may be reading them.
    if (tensor.requires_grad() != trainable) tensor.set_requires_grad(trainable);
  }
};

}  // namespace

Tensor dense_weight(const LinearBase& layer) {
  const Tensor weight = layer.weight();
  return weight.defined() && is_floating(weight.dtype()) ? weight : Tensor();
}

Tensor Adapter::input(const Tensor& x, const AdapterCall& call) const {
  const std::optional<Rotation> turn = rotation(x, call);
  return turn ? rotate(x, *turn) : x;
}

void Adapter::set_scale(double) { fail<AttributeError>("{}: this method has no scaling", method()); }
void Adapter::scale(double factor) { set_scale(factor); }
Tensor Adapter::merged(const Tensor&, bool) { fail<NotImplementedError>("{}: this method cannot be merged", method()); }
Tensor Adapter::unmerged(const Tensor&) { fail<NotImplementedError>("{}: this method cannot be unmerged", method()); }

std::vector<NamedTensor> Adapter::state(const std::string& name) {
  struct Collector final : Visitor {
    std::vector<NamedTensor> found;
    void parameter(std::string_view parameter, Tensor& tensor) override { found.push_back({std::string(parameter), tensor}); }
  } collector;
  visit(collector, name);
  return std::move(collector.found);
}

// ---- state ----

AdapterLayer::AdapterLayer(std::shared_ptr<LinearBase> base_layer, std::string type_name)
    : type_name_(std::move(type_name)), base_(std::move(base_layer)), state_(std::make_shared<State>()) {
  check(static_cast<bool>(base_), "{}: there is no base layer", type_name_);
  set_training(base_->training());
}

std::shared_ptr<const AdapterLayer::State> AdapterLayer::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

template <class F>
void AdapterLayer::change(F&& f) {
  const std::lock_guard lock(mutex_);
  auto next = std::make_shared<State>(*state_);
  f(*next);
  state_ = std::move(next);
}

const AdapterLayer::Entry* AdapterLayer::State::find(const std::string& name) const {
  const auto found = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.name == name; });
  return found == entries.end() ? nullptr : &*found;
}

const AdapterLayer::Entry& AdapterLayer::State::at(const std::string& name, const AdapterLayer& layer) const {
  const Entry* entry = find(name);
  if (!entry) {
    std::vector<std::string_view> names;
    for (const Entry& known : entries) names.push_back(known.name);
    fail("{}: there is no adapter '{}', only {}", layer.type_name(), name, fmt::join(names, ", "));
  }
  return *entry;
}

bool AdapterLayer::State::trainable(const Entry& entry) const {
  return enabled && !entry.inference && contains(active, entry.name);
}

void AdapterLayer::freeze_or_train(const State& state) {
  for (const Entry& entry : state.entries) {
    Trainability visitor(state.trainable(entry));
    entry.adapter->visit(visitor, entry.name);
  }
}

void AdapterLayer::add_adapter(const std::string& name, std::shared_ptr<Adapter> adapter) {
  check(adapter != nullptr, "{}: no adapter is given for '{}'", type_name_, name);
  check(!name.empty() && name != adapters::base_name && name.find('.') == std::string::npos,
        "'{}' cannot be the name of an adapter: it must not be empty, hold a dot, or be {}", name, adapters::base_name);
  change([&](State& s) {
    check(!s.find(name), "{}: there is an adapter '{}' already", type_name_, name);
    if (s.entries.empty() && s.active.empty()) s.active = {name};
    s.entries.push_back({name, std::move(adapter)});
    freeze_or_train(s);
  });
}

void AdapterLayer::adopt(const std::string& name, std::shared_ptr<AdapterRecord> record, bool inference_mode) {
  static_cast<void>(adapter(name));
  change([&](State& s) {
    for (Entry& entry : s.entries)
      if (entry.name == name) entry.record = record, entry.inference = inference_mode;
    freeze_or_train(s);
  });
}

void AdapterLayer::delete_adapter(const std::string& name) {
  static_cast<void>(this->adapter(name));
  std::string successor;
  change([&](State& s) {
    check(!contains(s.merged, name), "{}: adapter '{}' is merged; unmerge it before deleting it", type_name_, name);
    std::erase_if(s.entries, [&](const Entry& e) { return e.name == name; });
    if (std::erase(s.active, name) && s.active.empty() && !s.entries.empty()) {
      const auto first = std::min_element(s.entries.begin(), s.entries.end(), [](auto& a, auto& b) { return a.name < b.name; });
      s.active = {first->name};
      successor = first->name;
    }
    freeze_or_train(s);
  });
  // Only now, so that the host's handler may ask this layer about its adapters.
  if (!successor.empty())
    adapters::warn("{}: adapter '{}' was active and is gone; '{}' is active now", type_name_, name, successor);
}

void AdapterLayer::rename_adapter(const std::string& from, const std::string& to) {
  static_cast<void>(this->adapter(from));
  change([&](State& s) {
    check(from == to || !s.find(to), "{}: there is an adapter '{}' already", type_name_, to);
    check(!to.empty() && to != adapters::base_name && to.find('.') == std::string::npos, "'{}' cannot be the name of an adapter",
          to);
    for (Entry& entry : s.entries)
      if (entry.name == from) entry.name = to;
    for (auto* names : {&s.active, &s.merged}) std::replace(names->begin(), names->end(), from, to);
  });
}

bool AdapterLayer::replace_active(const std::string& from, const std::optional<std::string>& to) {
  bool emptied = false;
  change([&](State& s) {
    const auto found = std::find(s.active.begin(), s.active.end(), from);
    if (found == s.active.end()) return;
    if (to) *found = *to;
    else s.active.erase(found);
    emptied = s.active.empty();
    freeze_or_train(s);
  });
  return emptied;
}

std::vector<std::string> AdapterLayer::adapter_names() const {
  std::vector<std::string> names;
  for (const auto now = state(); const Entry& entry : now->entries) names.push_back(entry.name);
  return names;
}

std::vector<AdapterLayer::Named> AdapterLayer::adapters() const {
  std::vector<Named> all;
  for (const auto now = state(); const Entry& entry : now->entries)
    all.push_back(
        {entry.name, entry.adapter, entry.record, now->enabled && contains(now->active, entry.name), now->trainable(entry)});
  return all;
}

bool AdapterLayer::has_adapter(const std::string& name) const { return state()->find(name) != nullptr; }
std::shared_ptr<Adapter> AdapterLayer::adapter(const std::string& name) const { return state()->at(name, *this).adapter; }
std::shared_ptr<AdapterRecord> AdapterLayer::record(const std::string& name) const { return state()->at(name, *this).record; }
std::vector<std::string> AdapterLayer::active_adapters() const { return state()->active; }
std::vector<std::string> AdapterLayer::merged_adapters() const { return state()->merged; }
bool AdapterLayer::trainable(const std::string& name) const {
  const auto now = state();
  return now->trainable(now->at(name, *this));
}
bool AdapterLayer::disable_adapters() const { return !state()->enabled; }

void AdapterLayer::set_adapter(const std::vector<std::string>& names, std::optional<bool> inference_mode) {
  change([&](State& s) {
    s.active = names;
    for (Entry& entry : s.entries)
      if (inference_mode && contains(names, entry.name)) entry.inference = *inference_mode;
    freeze_or_train(s);
  });
}

void AdapterLayer::enable_adapters(bool enabled) {
  if (!enabled && !merged_adapters().empty()) unmerge();
  change([&](State& s) {
    s.enabled = enabled;
    freeze_or_train(s);
  });
}

void AdapterLayer::scale_layer(double factor) {
  const auto now = state();
  for (const auto& name : now->active)
    if (const Entry* entry = now->find(name)) entry->adapter->scale(factor);
}

void AdapterLayer::unscale_layer(std::optional<double> factor) {
  if (factor) {
    check(*factor != 0, "{}: cannot divide a scaling by 0", type_name_);
    return scale_layer(1 / *factor);
  }
  const auto now = state();
  for (const auto& name : now->active)
    if (const Entry* entry = now->find(name)) entry->adapter->reset_scale();
}

// ---- as a module ----

std::string AdapterLayer::description() const {
  const auto now = state();
  std::vector<std::string> parts;
  for (const Entry& entry : now->entries)
    parts.push_back(fmt::format("{}: {} {}{}", entry.name, entry.adapter->method(), entry.adapter->description(),
                                contains(now->active, entry.name) ? ", active" : ""));
  return fmt::format("{}", fmt::join(parts, "; "));
}

void AdapterLayer::visit(Visitor& visitor) {
  visitor.child("base_layer", base_);
  for (const auto now = state(); const Entry& entry : now->entries) {
    entry.adapter->visit(visitor, entry.name);
    if (!entry.record) continue;
    for (const auto& saved : entry.record->saved)
      for (const Tensor& tensor : {saved.original, saved.copy}) visitor.kept(tensor);
  }
}

Tensor AdapterLayer::qweight() const {
  const LinearBase* base = base_.pointer().get();
  if (const auto* wrapped = dynamic_cast<const AdapterLayer*>(base)) return wrapped->qweight();
  const auto* quantized = dynamic_cast<const quant::QuantLinear*>(base);
  check<AttributeError>(quantized != nullptr, "{}: a base of type {} has no qweight", type_name_, base->type_name());
  return quantized->qweight();
}

void AdapterLayer::replace_base(std::shared_ptr<LinearBase> base_layer) {
  check(base_layer && base_layer->in_features() == in_features() && base_layer->out_features() == out_features(),
        "{}: the new base must have {} input and {} output features", type_name_, in_features(), out_features());
  base_.replace(std::move(base_layer));
}

// ---- forward ----

Tensor AdapterLayer::forward(const Tensor& x) const {
  const auto now = state();
  const adapters::Routing* routing = adapters::routing();
  if (!now->enabled && !(routing && routing->when_off)) return base_->forward(x);
  if (routing && routing->by_row) return apply_by_row(x, routing->names, *now);
  if (!now->merged.empty()) {
    check(!routing, "{}: adapters cannot be chosen per call while some are merged ({}); unmerge first", type_name_,
          fmt::join(now->merged, ", "));
    return base_->forward(x);
  }
  std::vector<const Entry*> chosen;
  for (const auto& name : routing ? routing->names : now->active)
    if (const Entry* entry = now->find(name)) chosen.push_back(entry);
  return chosen.empty() ? base_->forward(x) : apply(x, chosen);
}

Tensor AdapterLayer::apply(const Tensor& x, const std::vector<const Entry*>& chosen) const {
  const AdapterCall call{*base_, training()};
  const bool dense = dense_weight(*base_).defined();
  Tensor turned = x;
  std::optional<Rotation> last;  // that is still to come, in the base
  for (const Entry* entry : chosen) {
    if (!entry->adapter->turns_input()) continue;
    if (last) turned = rotate(turned, *last);
    last = dense ? std::nullopt : entry->adapter->rotation(turned, call);
    if (!last) turned = entry->adapter->input(turned, call);
  }

  // Neighbouring terms go down together, the first of them with the base product itself, where a kernel may fuse them.
  Tensor y;
  std::vector<LowRankTerm> terms;
  const bool same_input = !last && turned.same(x);
  const auto flush = [&] {
    if (!y.defined()) {
      if (dense) turned = to(turned, x.dtype());  // a dense base computes in the dtype that it is given
      if (last) y = base_->forward_rotated(turned, *last);
      else y = base_->forward(turned, same_input ? std::span<const LowRankTerm>(terms) : std::span<const LowRankTerm>());
      // What turned the input gives back the dtype that it got: under autocast a dense base returns another.
      if (!same_input && (dense || (last ? last->dtype : turned.dtype()) != x.dtype())) y = to(y, x.dtype());
      if (same_input) terms.clear();
    }
    if (!terms.empty()) y = low_rank_sum(y, x, terms);
    terms.clear();
  };
  DType result_dtype = x.dtype();
  for (const Entry* entry : chosen) {
    if (auto term = entry->adapter->term(x, call)) {
      terms.push_back(std::move(*term));
      continue;
    }
    const bool first = !y.defined();
    flush();
    if (first) result_dtype = y.dtype();
    y = entry->adapter->output(y, x, call);
  }
  const bool only_terms = !y.defined();
  flush();
  return only_terms ? y : to(y, result_dtype);
}

namespace {

/// y with its rows at `rows` replaced; exact, since nothing is added.
Tensor put_rows(const Tensor& y, const std::vector<RowRange>& rows, const Tensor& replacement) {
  const std::int64_t n = y.dim(0);
  std::int64_t next = n;
  std::vector<std::int64_t> from(n);
  for (std::int64_t i = 0; i < n; ++i) from[i] = i;
  for (const RowRange& range : rows)
    for (std::int64_t row = range.begin; row < range.end; ++row) from[row] = next++;
  const Tensor both[] = {y, replacement};
  return index_select(concat(both, 0), 0, to(Tensor::from(from, {n}), y.device()));
}

}  // namespace

Tensor AdapterLayer::apply_by_row(const Tensor& x, const std::vector<std::string>& names, const State& state) const {
  check(x.rank() >= 2 && x.dim(0) == static_cast<std::int64_t>(names.size()),
        "{}: {} adapter names are given for an input of shape {}; there must be one per row of its first dimension", type_name_,
        names.size(), x.shape());
  check(!training(), "{}: adapters cannot be chosen per row in training mode", type_name_);
  check(state.merged.empty(), "{}: adapters cannot be chosen per row while some are merged ({}); unmerge first", type_name_,
        fmt::join(state.merged, ", "));

  struct Group {
    const Adapter* adapter;
    std::vector<RowRange> rows;
    std::optional<LowRankTerm> term = {};  // of an adapter that does nothing else, and has no input of its own
    Tensor index = {}, x = {}, wide = {};  // of others
  };
  std::vector<Group> groups;
  const std::int64_t per_name = x.dim(0) ? x.count() / x.dim(0) / x.dim(-1) : 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Entry* entry = state.find(names[i]);  // a name that only other layers know leaves this layer as it is
    if (!entry) continue;
    auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.adapter == entry->adapter.get(); });
    if (group == groups.end()) group = groups.insert(groups.end(), {entry->adapter.get(), {}});
    const std::int64_t begin = static_cast<std::int64_t>(i) * per_name, end = begin + per_name;
    if (!group->rows.empty() && group->rows.back().end == begin) group->rows.back().end = end;
    else group->rows.push_back({begin, end});
  }
  if (groups.empty()) return base_->forward(x);

  const AdapterCall call{*base_, false};
  const bool dense = dense_weight(*base_).defined();
  const Tensor flat = reshape(x, {-1, x.dim(-1)});
  Tensor turned = flat;
  for (Group& g : groups) {
    if (!g.adapter->turns_input()) {
      g.term = g.adapter->term(slice(flat, 0, 0, 0), call);
      if (g.term && !g.term->x.defined()) continue;
      g.term.reset();
    }
    g.index = row_numbers(g.rows, x.device());
    g.x = index_select(flat, 0, g.index);
    const Tensor own = g.adapter->input(g.x, call);
    if (own.same(g.x)) continue;
    if (own.dtype() != x.dtype() && !dense) g.wide = own;  // a quantized base computes these rows in the wider dtype
    else turned = put_rows(turned, g.rows, to(own, x.dtype()));
  }
  std::vector<LowRankTerm> terms;
  for (const Group& g : groups) {
    if (g.wide.defined()) continue;
    auto term = g.term ? g.term : g.adapter->term(g.x, call);
    if (!term) continue;
    if (!g.term && !term->x.defined()) term->x = g.x;
    term->rounding = Rounding::after_scale;  // rounded before it meets the rows of the base, as PEFT does it
    term->rows = g.rows;
    terms.push_back(std::move(*term));
  }
  Tensor y = base_->forward(turned, terms);
  for (const Group& g : groups) {
    if (g.term) continue;
    if (g.wide.defined()) {
      Tensor own = to(base_->forward(g.wide), x.dtype());
      if (const auto term = g.adapter->term(g.x, call)) own = low_rank_sum(own, g.x, {&*term, 1});
      y = put_rows(y, g.rows, to(own, y.dtype()));
    }
    const Tensor before = index_select(y, 0, g.index);
    const Tensor own = g.adapter->output(before, g.x, call);
    if (!own.same(before)) y = put_rows(y, g.rows, to(own, y.dtype()));
  }
  Shape shape = x.shape();
  shape[shape.rank() - 1] = out_features();
  return reshape(y, shape);
}

// ---- merging ----

Tensor AdapterLayer::mergeable_weight() const {
  const Tensor weight = dense_weight(*base_);
  check<NotImplementedError>(weight.defined(), "{}: the base ({}) holds packed integers, into which adapters cannot be merged",
                             type_name_, base_->type_name());
  return weight;
}

void AdapterLayer::merge(bool safe_merge, std::optional<std::vector<std::string>> names) {
  const Tensor weight = mergeable_weight();
  const NoGrad no_grad;
  const autocast::Guard exact(weight.device().type, {});
  const auto now = state();
  std::vector<std::string> to_merge, already;
  for (const auto& name : names ? *names : now->active) {
    if (!names && !now->find(name)) continue;  // active elsewhere in the model
    const Entry& entry = now->at(name, *this);
    if (contains(now->merged, name)) {
      already.push_back(name);
      continue;
    }
    check(now->merged.empty() || !entry.adapter->turns_input(),
          "{}: adapter '{}' turns the layer's input, and cannot be merged after others ({}); unmerge them and merge all at once",
          type_name_, name, fmt::join(now->merged, ", "));
    check(!entry.adapter->bias_delta().defined() || base_->bias().defined(),
          "{}: adapter '{}' has a bias (lora_bias) and the base layer has none to merge it into", type_name_, name);
    to_merge.push_back(name);
  }
  if (to_merge.empty()) return adapters::warn("{}: all adapters are merged already, there is nothing to do", type_name_);
  if (!already.empty()) adapters::warn("{}: these adapters are merged already: {}", type_name_, fmt::join(already, ", "));

  // x R₁ R₂ Wᵀ = x (W R₂ᵀ R₁ᵀ)ᵀ: what turns the input goes first and from the last to the first, then what adds to the weight.
  const auto added = std::stable_partition(to_merge.begin(), to_merge.end(),
                                           [&](auto& name) { return now->at(name, *this).adapter->turns_input(); });
  std::reverse(to_merge.begin(), added);

  // Everything is computed, and with safe_merge looked at, before anything is changed.
  Tensor merged_weight = weight, merged_bias = base_->bias();
  for (const auto& name : to_merge) {
    Adapter& adapter = *now->at(name, *this).adapter;
    merged_weight = adapter.merged(merged_weight, safe_merge);
    if (const Tensor delta = adapter.bias_delta(); delta.defined()) merged_bias = to(merged_bias + delta, merged_bias.dtype());
    if (safe_merge && !(all_finite(merged_weight) && (!merged_bias.defined() || all_finite(merged_bias))))
      fail("{}: merging adapter '{}' gives values that are not finite", type_name_, name);
  }
  weight.copy_(merged_weight);
  if (merged_bias.defined()) base_->bias().copy_(merged_bias);
  change([&](State& s) { s.merged.insert(s.merged.end(), to_merge.begin(), to_merge.end()); });
}

void AdapterLayer::unmerge() {
  const NoGrad no_grad;
  const auto now = state();
  const Tensor in_place = mergeable_weight();
  const autocast::Guard exact(in_place.device().type, {});
  if (now->merged.empty()) return adapters::warn("{}: nothing is merged", type_name_);
  Tensor weight = in_place, bias = base_->bias();
  for (auto name = now->merged.rbegin(); name != now->merged.rend(); ++name) {
    Adapter& adapter = *now->at(*name, *this).adapter;
    weight = adapter.unmerged(weight);
    if (const Tensor delta = adapter.bias_delta(); delta.defined()) bias = to(bias - delta, bias.dtype());
  }
  in_place.copy_(weight);
  if (bias.defined()) base_->bias().copy_(bias);
  change([](State& s) { s.merged.clear(); });
}

}  // namespace graft
