// Tensors, modules, packed weights and optimizers on a GPU.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/adapters/inject.h"
#include "graft/autograd/ops.h"
#include "graft/autograd/optim.h"
#include "graft/core/kernels.h"
#include "graft/quant/kernels.h"
#include "graft/tests/adapters/layers.h"
#include "graft/tests/cuda/device_tensors.h"
#include "graft/tests/support/errors.h"

namespace graft::test {
namespace {

TEST(Gpu, TensorsTravel) {
  Generator generator{5, 0};
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const Tensor x = to(uniform({3, 4, 5}, -2, 2, generator), dtype), there = to(x, gpu);
    EXPECT_EQ(there.device(), gpu);
    EXPECT_EQ(there.to_vector<double>(), x.to_vector<double>());
    EXPECT_EQ(to(transpose(there, 0, 2), Device::cpu()).to_vector<double>(), transpose(x, 0, 2).to_vector<double>());
    EXPECT_EQ(to(there, DType::f64).to_vector<double>(), x.to_vector<double>());
  }
  EXPECT_EQ(Tensor::full({}, 2.5, DType::f32, gpu).item(), 2.5);
  EXPECT_EQ(Tensor::arange(4, DType::i32, gpu).to_vector<std::int64_t>(), (std::vector<std::int64_t>{0, 1, 2, 3}));
}

TEST(Gpu, RefusesWhatIsNotThere) {
  expect_error<CudaError>([] { Tensor::ones({1}, DType::f32, Device::cuda(63)); }, "device cuda:63 was asked for, but");
  expect_error<CudaError>([] { Tensor::ones({1}, DType::f32, Device::cuda(-1)); }, "device cuda:-1 was asked for, but");
  const Tensor here = Tensor::ones({2}), there = Tensor::ones({2}, DType::f32, gpu);
  expect_error<ValueError>([&] { add(here, there); }, "one tensor is on cpu, the other on cuda:0");
  expect_error<ValueError>([&] { there.data<float>(); }, "the tensor is on cuda:0; copy it to the CPU first");
  expect_error<CudaError>([&] { runtime(gpu).kernels().fill(here.view(), 1); },
                          "a kernel for GPUs was given memory that is on none");
}

TEST(Gpu, AnEmptySliceMayLieBehindItsMemory) {
  const Tensor x = Tensor::ones({2, 64}, DType::f32, gpu), none = slice(x, 0, 2, 2);
  EXPECT_EQ((none + none).shape(), (Shape{0, 64}));
  EXPECT_EQ(matmul(none, x.t()).shape(), (Shape{0, 2}));
  EXPECT_EQ(matmul(none.t(), none).to_vector<double>(), std::vector<double>(64 * 64, 0));
  EXPECT_EQ(concat(std::vector{none, x}, 0).to_vector<double>(), std::vector<double>(128, 1));
}

TEST(Gpu, OutOfMemoryLeavesTheProgramUsable) {
  const Tensor before = Tensor::ones({3}, DType::f32, gpu);
  expect_error<OutOfMemoryError>([] { Tensor::empty({std::int64_t{1} << 45}, DType::f32, gpu); },
                                 fmt::format("out of memory: {} bytes could not be allocated on cuda:0", std::int64_t{1} << 47));
  EXPECT_EQ((before + Tensor::ones({3}, DType::f32, gpu)).to_vector<double>(), std::vector<double>(3, 2));
  memory::empty_cache(gpu);
  EXPECT_EQ(Tensor::ones({3}, DType::f32, gpu).to_vector<double>(), std::vector<double>(3, 1));
}

// Drawn on both devices: the same words give the same numbers.
TEST(Gpu, DrawsTheNumbersOfTheCpu) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    Generator here{7, 3}, there{7, 3};
    EXPECT_EQ(uniform({33}, -1, 2, here, dtype).to_vector<double>(), uniform({33}, -1, 2, there, dtype, gpu).to_vector<double>());
    const auto wanted = normal({33}, 1, 2, here, dtype).to_vector<double>(),
               got = normal({33}, 1, 2, there, dtype, gpu).to_vector<double>();
    for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(got[i], wanted[i], 1e-6 * std::abs(wanted[i]));
  }
}

double far(const Tensor& a, const Tensor& b) { return distance(to(a, Device::cpu()), to(b, Device::cpu())); }

// Every format's layer, forward, backward and dequantized.
TEST(Gpu, PackedWeights) {
  for (const std::string& format : formats)
    for (const bool bias : {false, true})
      for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
        if (format == "dense" && dtype != DType::f32) continue;
        SCOPED_TRACE(fmt::format("{} {} {}", format, bias, dtype));
        const auto here = make_base(format, 128, 64, bias), there = make_base(format, 128, 64, bias);
        to(*here, Device::cpu());
        Tensor x = to(random({2, 3, 128}, 1, dtype), Device::cpu()), moved = to(x, gpu);
        x.set_requires_grad(), moved.set_requires_grad();
        const Tensor y = here->forward(x), z = there->forward(moved);
        EXPECT_EQ(z.device(), gpu);
        const double tolerance = dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-4 : dtype == DType::f16 ? 2e-2 : 1.5e-1;
        EXPECT_LE(far(z, y), tolerance);
        const Tensor dy = to(random({2, 3, 64}, 2, dtype), Device::cpu());
        y.backward(dy);
        z.backward(to(dy, gpu));
        EXPECT_LE(far(moved.grad(), x.grad()), tolerance);
        if (const auto* packed = dynamic_cast<const quant::QuantLinear*>(there.get())) {
          const auto& original = dynamic_cast<const quant::QuantLinear&>(*here);
          EXPECT_EQ(packed->packed().device(), gpu);
          EXPECT_EQ(packed->dequantize(5, 60).to_vector<float>(), original.dequantize(5, 60).to_vector<float>());
          expect_error<ValueError>([&] { there->forward(x); }, "quantized linear: the input is on cpu, the weight on cuda:0");
          to(*there, Device::cpu());
          EXPECT_EQ(there->forward(x).to_vector<double>(), y.to_vector<double>());
        }
      }
}

// Some steps of training on both devices end at the same adapter.
TEST(Gpu, TrainsAnAdapter) {
  const auto train = [](Device device) {
    Model model("gptq");
    adapters::inject(model, LoraConfig{.r = 4, .lora_alpha = 8, .target_modules = {"q_proj", "v_proj"}});
    seed(model, 3);
    to(model, device);
    AdamW optimizer(trainable(model), {.lr = 1e-2});
    const Tensor x = to(random({8, 64}, 1), device);
    std::vector<double> losses;
    for (int step = 0; step < 3; ++step) {
      const Tensor y = model.forward(x), loss = mse_loss(y, Tensor::zeros(y.shape(), y.dtype(), device));
      losses.push_back(loss.item());
      loss.backward();
      clip_grad_norm(trainable(model), 1);
      optimizer.step();
      optimizer.zero_grad();
    }
    return losses;
  };
  const auto here = train(Device::cpu()), there = train(gpu);
  ASSERT_LT(here.back(), here.front());
  for (std::size_t i = 0; i < here.size(); ++i) EXPECT_NEAR(there[i], here[i], 1e-4 * here[i]);
}

}  // namespace
}  // namespace graft::test
