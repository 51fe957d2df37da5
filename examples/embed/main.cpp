// Reads two layers of a GPTQ checkpoint, puts LoRA on them, trains it, and writes it as a folder that PEFT opens.
#include "graft/adapters/inject.h"
#include "graft/adapters/peft_io.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/quant/checkpoint.h"

using namespace graft;

class FeedForward : public Module {
 public:
  explicit FeedForward(const quant::Checkpoint& file)
      : up_(file.linear("model.layers.0.mlp.up_proj", 256, 768, DType::f32)),
        down_(file.linear("model.layers.0.mlp.down_proj", 768, 256, DType::f32)) {}

  std::string type_name() const override { return "FeedForward"; }
  void visit(Visitor& visitor) override {
    visitor.child("up_proj", up_);
    visitor.child("down_proj", down_);
  }
  Tensor forward(const Tensor& x) const { return down_->forward(silu(up_->forward(x))); }

 private:
  Slot<LinearBase> up_, down_;
};

int main(int argc, char** argv) try {
  if (argc != 3) throw ValueError("usage: embed <model folder> <output folder>");
  FeedForward model(quant::Checkpoint::open(argv[1]));
  auto report = adapters::inject(model, LoraConfig{.r = 8, .lora_alpha = 16, .target_modules = {"up_proj", "down_proj"}});
  fmt::print("{}\n", report);

  Generator random{.seed = 1};
  const Tensor x = normal({64, 256}, 0, 1, random), wanted = normal({64, 256}, 0, 0.1, random);
  AdamW optimizer(trainable(model), {.lr = 1e-2});
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    Tensor loss = mse_loss(model.forward(x), wanted);
    loss.backward();
    optimizer.step();
    optimizer.zero_grad();
    (step == 0 ? first : last) = loss.item();
  }
  fmt::print("loss {:.4f}, after 30 steps {:.4f}\n", first, last);
  adapters::save_pretrained(model, argv[2]);
  return last < first ? 0 : 1;
} catch (const Error& error) {
  fmt::print(stderr, "embed: {}\n", error.what());
  return 1;
}
