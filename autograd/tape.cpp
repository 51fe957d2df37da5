#include "graft/autograd/tape.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"

namespace graft {

// One recorded operation, or a leaf (no rules, `leaf` set).
struct Node {
  struct Input {
    std::shared_ptr<Node> node;  // null: nobody differentiates this input
    Shape shape;
    DType dtype = DType::f32;
  };
  struct Entry {
    Rule rule;
    std::vector<Input> inputs;
  };

  const char* operation = "leaf";
  std::uint64_t order = 0;  // of recording: an operation's inputs always have lower numbers; 0 for leaves
  std::vector<Entry> entries;
  bool spent = false;  // the rules were released by a backward() that did not retain them

  // The operation's own result, without its node, for rules that ask for it.
  Tensor output;
  std::uint64_t output_version = 0;

  Tensor::Weak leaf;

  static std::shared_ptr<Node> make(const char* operation);
  static const std::shared_ptr<Node>& of(const Tensor& tensor);
};

namespace {

thread_local bool recording = true;
std::atomic<std::uint64_t> recorded{1};

// Nodes own rules, rules own tensors, tensors own nodes: destroying a long chain would recurse as deep as the chain is long.
// So the outermost deleter destroys, and those that it sets off only queue.
void destroy(Node* node) {
  thread_local std::vector<Node*>* pending = nullptr;
  if (pending) {
    pending->push_back(node);
    return;
  }
  std::vector<Node*> queue{node};
  pending = &queue;
  while (!queue.empty()) {
    Node* next = queue.back();
    queue.pop_back();
    delete next;
  }
  pending = nullptr;
}

}  // namespace

std::shared_ptr<Node> Node::make(const char* operation) {
  std::shared_ptr<Node> node(new Node, destroy);
  node->operation = operation;
  node->order = recorded.fetch_add(1, std::memory_order_relaxed);
  return node;
}

const std::shared_ptr<Node>& Node::of(const Tensor& tensor) {
  static std::mutex making;  // threads may record against one leaf
  const std::lock_guard lock(making);
  if (!tensor.node()) {
    auto leaf = make("leaf");
    leaf->leaf = Tensor::Weak(tensor);
    leaf->order = 0;  // its first use was recorded before it was made
    tensor.set_node(std::move(leaf));
  }
  return tensor.node();
}

bool grad_enabled() { return recording; }
GradMode::GradMode(bool enabled) : previous_(recording) { recording = enabled; }
GradMode::~GradMode() { recording = previous_; }

const Tensor& Saved::operator()() const {
  if (tensor_.defined())
    check(tensor_.version() == version_,
          "backward: a tensor of shape {} that was saved for backward has been changed in place since", tensor_.shape());
  return tensor_;
}

// ---- recording ----

bool Recorder::wanted(const Tensor& x) { return recording && x.defined() && x.requires_grad(); }

void Recorder::add(std::span<const Tensor> xs, Rule rule, bool keeps_output) {
  if (!y_.node()) y_.set_node(Node::make(operation_));
  Node& node = *y_.node();
  if (keeps_output && !node.output.defined()) {
    node.output = y_.detach();
    node.output_version = y_.version();
  }
  Node::Entry entry{std::move(rule), {}};
  for (const Tensor& x : xs) {
    const bool counts = wanted(x);
    entry.inputs.push_back({counts ? Node::of(x) : nullptr, counts ? x.shape() : Shape(), counts ? x.dtype() : DType::f32});
  }
  node.entries.push_back(std::move(entry));
}

// ---- differentiating ----

namespace {

struct Engine {
  Engine(const BackwardOptions& options, bool into_leaves) : options(options), into_leaves(into_leaves) {}

  struct Pending {
    std::shared_ptr<Node> node;
    Tensor dy;
  };

  BackwardOptions options;
  bool into_leaves;                               // backward(): add to grad() of leaves
  std::unordered_map<Node*, Pending> pending;     // gradients of nodes not yet visited
  std::unordered_map<Node*, std::size_t> wanted;  // grad(): which node answers which input
  std::vector<Tensor> answers;

  struct Later {
    bool operator()(const Node* a, const Node* b) const { return a->order < b->order; }
  };
  // Latest first. An operation was recorded after its inputs, so when a node comes up, all of its gradient has arrived.
  std::priority_queue<Node*, std::vector<Node*>, Later> queue;

  void arrive(const std::shared_ptr<Node>& node, Tensor dy) {
    auto [at, first] = pending.try_emplace(node.get());
    if (first) {
      queue.push(node.get());
      at->second = {node, std::move(dy)};
    } else {
      at->second.dy = add(at->second.dy, dy);
    }
  }

  void run() {
    autocast::Guard cpu(Device::Type::cpu, std::nullopt), cuda(Device::Type::cuda, std::nullopt);
    GradMode mode(options.create_graph);
    while (!queue.empty()) {
      const auto at = pending.find(queue.top());
      const auto [node, dy] = std::move(at->second);
      queue.pop();
      pending.erase(at);
      if (auto want = wanted.find(node.get()); want != wanted.end()) answers[want->second] = dy;
      if (node->entries.empty() && !node->spent) accumulate(*node, dy);
      else differentiate(node, dy);
    }
  }

  void accumulate(Node& node, const Tensor& dy) {
    if (!into_leaves) return;
    const Tensor leaf = node.leaf.lock();
    if (!leaf.defined() || !leaf.requires_grad()) return;
    const Tensor before = leaf.grad();
    leaf.set_grad(before.defined() ? add(before, dy) : dy);
  }

  void differentiate(const std::shared_ptr<Node>& node, const Tensor& dy) {
    check(!node->spent, "backward: the graph of {} was already used; pass retain_graph to use it again", node->operation);
    Tensor y;
    if (node->output.defined()) {
      check(node->output.version() == node->output_version,
            "backward: the result of {} (shape {}) has been changed in place since", node->operation, node->output.shape());
      y = node->output.detach();
      if (options.create_graph) y.set_node(node);
    }
    for (const Node::Entry& entry : node->entries) {
      const Gradients gradients = entry.rule(dy, y);
      check(gradients.size() == entry.inputs.size(), "backward: a rule of {} gave {} gradients for {} inputs", node->operation,
            gradients.size(), entry.inputs.size());
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        const Node::Input& input = entry.inputs[i];
        if (!input.node || !gradients[i].defined()) continue;
        Tensor dx = gradients[i].shape() == input.shape ? gradients[i] : sum_to(gradients[i], input.shape);
        arrive(input.node, dx.dtype() == input.dtype ? dx : to(dx, input.dtype));
      }
    }
    if (!options.retain_graph && !options.create_graph) {
      node->entries.clear();
      node->output = Tensor();
      node->spent = true;
    }
  }
};

void start(Engine& engine, const Tensor& output, const Tensor& dy) {
  check(output.requires_grad(), "backward: nothing that this tensor of shape {} depends on requires a gradient", output.shape());
  check(dy.defined() || output.count() == 1, "backward: a tensor of shape {} needs a gradient to start from", output.shape());
  check(!dy.defined() || dy.shape() == output.shape(), "backward: a gradient of shape {} for a tensor of shape {}",
        dy.defined() ? dy.shape() : Shape(), output.shape());
  Tensor first = dy.defined() ? dy : Tensor::ones(output.shape(), output.dtype(), output.device());
  GradMode mode(engine.options.create_graph);
  engine.arrive(Node::of(output), first.dtype() == output.dtype() ? first : to(first, output.dtype()));
}

}  // namespace

std::vector<Tensor> leaves(const Tensor& y) {
  std::vector<Tensor> found;
  if (!y.requires_grad()) return found;
  std::vector<const Node*> stack{Node::of(y).get()};
  std::unordered_set<const Node*> seen(stack.begin(), stack.end());
  while (!stack.empty()) {
    const Node* node = stack.back();
    stack.pop_back();
    if (Tensor leaf = node->leaf.lock(); leaf.defined()) found.push_back(std::move(leaf));
    for (const Node::Entry& entry : node->entries)
      for (const Node::Input& input : entry.inputs)
        if (input.node && seen.insert(input.node.get()).second) stack.push_back(input.node.get());
  }
  return found;
}

void Tensor::backward(const Tensor& dy) const { backward(dy, {}); }

void Tensor::backward(const Tensor& dy, const BackwardOptions& options) const {
  Engine engine(options, true);
  start(engine, *this, dy);
  engine.run();
}

std::vector<Tensor> grad(std::span<const Tensor> outputs, std::span<const Tensor> inputs, std::span<const Tensor> dys,
                         const BackwardOptions& options) {
  check(dys.empty() || dys.size() == outputs.size(), "grad: {} gradients for {} outputs", dys.size(), outputs.size());
  Engine engine(options, false);
  engine.answers.resize(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check(inputs[i].requires_grad(), "grad: input {} of shape {} does not require a gradient", i, inputs[i].shape());
    check(engine.wanted.emplace(Node::of(inputs[i]).get(), i).second, "grad: input {} is given twice", i);
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) start(engine, outputs[i], dys.empty() ? Tensor() : dys[i]);
  engine.run();
  return std::move(engine.answers);
}

}  // namespace graft
