// Which layer is built for a target: a list of rules per method, asked in order. A value, not a global: a program that has rules of its
// own makes a registry, puts them in front, and hands it to inject().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "graft/adapters/adapter.h"
#include "graft/adapters/config.h"

namespace graft {

/// A rule's answer: yes, or why not.
class Verdict {
 public:
  static Verdict accept() { return {}; }
  template <class... Args>
  static Verdict decline(fmt::format_string<Args...> reason, Args&&... args) {
    Verdict verdict;
    verdict.reason_ = fmt::format(reason, std::forward<Args>(args)...);
    return verdict;
  }
  explicit operator bool() const { return reason_.empty(); }
  const std::string& reason() const { return reason_; }

 private:
  std::string reason_;
};

class Registry {
 public:
  template <class Config>
  struct Rule {
    std::string name;  // "lora/gptq", for the report
    /// Whether this rule is for the layer. May throw where a target is meant for it and must not be adapted (an ImportError, say).
    std::function<Verdict(const LinearBase& layer, const Config& config)> accepts;
    /// A layer around `base` with one adapter. The configuration has the r and lora_alpha of this very layer; `seed` is its own.
    std::function<std::shared_ptr<AdapterLayer>(std::shared_ptr<LinearBase> base, const std::string& adapter_name,
                                                const Config& config, std::uint64_t seed)>
        make;
  };

  /// The rules of this library, in PEFT's order: EETQ, AWQ, GPTQ, dense.
  static Registry builtin();

  /// Puts a rule in front of those that are there.
  template <class Config>
  void prepend(Rule<Config> rule) {
    auto& list = std::get<std::vector<Rule<Config>>>(rules_);
    list.insert(list.begin(), std::move(rule));
  }
  template <class Config>
  void append(Rule<Config> rule) {
    std::get<std::vector<Rule<Config>>>(rules_).push_back(std::move(rule));
  }
  template <class Config>
  const std::vector<Rule<Config>>& rules() const {
    return std::get<std::vector<Rule<Config>>>(rules_);
  }

 private:
  std::tuple<std::vector<Rule<LoraConfig>>, std::vector<Rule<AdaLoraConfig>>, std::vector<Rule<OFTConfig>>> rules_;
};

}  // namespace graft
