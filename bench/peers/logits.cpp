// Writes what a model folder, with or without an adapter, answers to fixed token ids, for comparison with the Python originals
// (open_quantized.py, open_adapter.py).
#include <cstdio>

#include "graft/adapters/peft_io.h"
#include "graft/adapters/rules.h"
#include "graft/autograd/tape.h"
#include "graft/core/rng.h"
#include "graft/examples/llama/model.h"

int main(int argc, char** argv) try {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: peer_logits MODEL LOGITS.safetensors [ADAPTER]\n");
    return 2;
  }
  using namespace graft;
  NoGrad no_grad;
  llama::CausalLM model = llama::load(argv[1]);
  if (argc == 4) {
    Registry registry = Registry::builtin();
    registry.prepend(rules::quantized_dora());
    registry.prepend(rules::quantized_qalora());
    adapters::load_pretrained(model, argv[3], {.registry = registry});
  }
  constexpr std::int64_t rows = 4, length = 64;
  const Tensor ids = Tensor::empty({rows, length}, DType::i64);
  for (std::int64_t i = 0; i < ids.count(); ++i)
    ids.data<std::int64_t>()[i] =
        random_block(1, 0, static_cast<std::uint64_t>(i))[0] % static_cast<std::uint64_t>(model.config().vocab_size);
  safetensors::save(argv[2], {{"ids", ids}, {"logits", model.forward(ids)}});
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "peer_logits: %s\n", error.what());
  return 1;
}
