#include <cmath>
#include <random>

#include "op_table.h"

namespace graft::test {

double Array::broadcast(const Index& at, int rank) const {
  std::int64_t offset = 0;
  const int skip = rank - shape.rank();
  for (int i = 0; i < shape.rank(); ++i)
    offset = offset * shape[i] + (shape[i] == 1 ? 0 : at[static_cast<std::size_t>(skip + i)]);
  return data[static_cast<std::size_t>(offset)];
}

void Array::each(const std::function<void(const Index&, double&)>& f) {
  Index at{};
  for (double& element : data) {
    f(at, element);
    for (int i = shape.rank() - 1; i >= 0 && ++at[static_cast<std::size_t>(i)] == shape[i]; --i)
      at[static_cast<std::size_t>(i)] = 0;
  }
}

std::size_t Array::offset(std::initializer_list<std::int64_t> at) const {
  check(static_cast<int>(at.size()) == shape.rank(), "{} indices for an array of shape {}", at.size(), shape);
  std::int64_t offset = 0;
  int i = 0;
  for (auto index : at) {
    check(index >= 0 && index < shape[i], "index {} of dimension {} of shape {}", index, i, shape);
    offset = offset * shape[i++] + index;
  }
  return static_cast<std::size_t>(offset);
}

std::vector<Tensor> make_inputs(const Row& row, std::int64_t n) {
  std::mt19937_64 words(12345);
  auto unit = [&] { return static_cast<double>(words() >> 11) * 0x1p-53; };
  std::vector<Tensor> made;
  for (const Input& input : row.inputs(n)) {
    Array values(input.shape);
    values.each([&](const Array::Index&, double& x) { x = input.low + (input.high - input.low) * unit(); });
    switch (input.kind) {
      case Input::Kind::index: {
        std::vector<std::int64_t> indices(values.data.begin(), values.data.end());
        made.push_back(Tensor::from(indices, input.shape));
        break;
      }
      case Input::Kind::boolean: {
        Tensor mask = Tensor::empty(input.shape, DType::boolean);
        for (std::size_t i = 0; i < values.data.size(); ++i)
          mask.data<bool>()[i] = values.data[i] > 0.5 * (input.low + input.high);
        made.push_back(mask);
        break;
      }
      case Input::Kind::dominant: {
        const int last = input.shape.rank() - 1;
        const Array raw = values;
        values.each([&](const Array::Index& at, double& x) {
          const auto i = static_cast<std::size_t>(last);
          if (input.symmetric) {
            Array::Index mirrored = at;
            std::swap(mirrored[i - 1], mirrored[i]);
            x = 0.5 * (x + raw.broadcast(mirrored, last + 1));
          }
          if (at[i - 1] == at[i]) x += 2 * static_cast<double>(input.shape[last]);
        });
        made.push_back(Tensor::from(values.data, input.shape));
        break;
      }
      case Input::Kind::whole:
        for (double& x : values.data) x = std::round(x);
        made.push_back(Tensor::from(values.data, input.shape));
        break;
      case Input::Kind::real: made.push_back(Tensor::from(values.data, input.shape));
    }
    if (input.kind == Input::Kind::real || input.kind == Input::Kind::dominant) made.back().set_requires_grad(row.differentiable);
  }
  return made;
}

}  // namespace graft::test
