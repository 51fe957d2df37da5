// Files of tensors on the tested device.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "graft/core/safetensors.h"

#include "../support/tensors.h"

namespace graft::safetensors {
namespace {

TEST(SavedTensors, OfEveryDtypeAndAnyStrides) {
  std::vector<NamedTensor> tensors;
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i16, DType::i8, DType::u8})
    tensors.push_back({fmt::format("π.{}", dtype), Tensor::arange(6, dtype, test::tested_device()).alias({3, 2}, {1, 3}, 0)});
  tensors.push_back({"empty", test::zeros({0, 7})});
  tensors.push_back({"scalar", test::full({}, 7)});
  tensors.push_back({"truth", test::ones({3}, DType::boolean)});
  const auto path = std::filesystem::temp_directory_path() / fmt::format("graft-saved-tensors-{}", ::getpid());
  save(path, tensors, {{"b", "2"}, {"a", "\"1\"\n"}});
  const File file = File::open(path);
  std::filesystem::remove(path);
  EXPECT_EQ(file.metadata().at("a"), "\"1\"\n");
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(to_string(file.tensor(name)), to_string(tensor)) << name;
    EXPECT_EQ(file.entries().at(name).begin % size_of(tensor.dtype()), 0) << name;
  }
}

}  // namespace
}  // namespace graft::safetensors
