// 8 x 8 matrices of 16-bit elements between shared memory and the registers of a warp: ldmatrix, stmatrix, movmatrix. Lane l holds
// elements (l / 4, l % 4 * 2) and the one behind it; transposed, those of the transposed matrix.
#include <cstring>

#include "accesses.h"
#include "block.h"
#include "lanewise.h"

namespace graft::ptx {
namespace {

using Matrix = std::uint16_t[8][8];

void take(Matrix& matrix, const std::uint64_t* values, bool transposed) {
  for (unsigned lane = 0; lane < warp_size; ++lane)
    for (unsigned at = 0; at < 2; ++at) {
      const auto value = std::uint16_t(values[lane] >> (16 * at));
      const unsigned row = lane / 4, column = lane % 4 * 2 + at;
      (transposed ? matrix[column][row] : matrix[row][column]) = value;
    }
}

void give(const Matrix& matrix, std::uint64_t* values, bool transposed) {
  for (unsigned lane = 0; lane < warp_size; ++lane) {
    const unsigned row = lane / 4, column = lane % 4 * 2;
    values[lane] = transposed ? matrix[column][row] | std::uint32_t(matrix[column + 1][row]) << 16
                              : matrix[row][column] | std::uint32_t(matrix[row][column + 1]) << 16;
  }
}

/// Lanes 8 m to 8 m + 7 give the addresses of the rows of matrix m.
void execute_load_matrix(Warp& w, const Instruction& i, Lanes) {
  if (!w.gather_all(i)) return;
  for (unsigned m = 0; m < i.vector; ++m) {
    Matrix matrix;
    each(w, Lanes(0xff) << (8 * m), [&](unsigned lane) {
      const std::uint32_t address = w.shared_address(i, i.part[1], lane);
      check_aligned(address, 16);
      std::memcpy(matrix[lane % 8], w.block().shared.read(w.toucher(lane, i), address, 16), 16);
    });
    give(matrix, w.out(i, m), i.mode);
    w.define(w.operand(i, m), w.live(), w.live());
  }
  ++w.group().pc;
}

void execute_store_matrix(Warp& w, const Instruction& i, Lanes) {
  if (!w.gather_all(i)) return;
  for (unsigned m = 0; m < i.vector; ++m) {
    Matrix matrix;
    take(matrix, w.in(i, i.part[1] + m), i.mode);
    each(w, Lanes(0xff) << (8 * m), [&](unsigned lane) {
      const std::uint32_t address = w.shared_address(i, 0, lane);
      check_aligned(address, 16);
      w.block().shared.write(w.toucher(lane, i), address, 16, matrix[lane % 8]);
    });
  }
  w.block().progress();
  ++w.group().pc;
}

void execute_move_matrix(Warp& w, const Instruction& i, Lanes) {
  if (!w.gather_all(i)) return;
  Matrix matrix;
  take(matrix, w.in(i, 1), false);
  give(matrix, w.out(i, 0), true);
  w.define(w.operand(i, 0), w.live(), w.live());
  ++w.group().pc;
}

void decode_matrices(Spelling& s, Instruction& i, Execute execute) {
  s.one_of({"sync"}), s.one_of({"aligned"}), s.one_of({"m8n8"});
  constexpr std::uint8_t counts[] = {1, 2, 4};
  i.vector = counts[s.one_of({"x1", "x2", "x4"})];
  i.mode = s.take("trans");
  i.space = take_space(s);
  s.one_of({"b16"});
  i.control = true;
  i.execute = execute;
}

}  // namespace

void add_matrices(Decoders& decoders) {
  decoders["ldmatrix"] = [](Spelling& s, Instruction& i) {
    decode_matrices(s, i, execute_load_matrix);
    if (i.outputs != i.vector) s.unknown();
  };
  decoders["stmatrix"] = [](Spelling& s, Instruction& i) {
    decode_matrices(s, i, execute_store_matrix);
    i.outputs = 0;
    if (i.count != i.vector + 1) s.unknown();
  };
  decoders["movmatrix"] = [](Spelling& s, Instruction& i) {
    s.one_of({"sync"}), s.one_of({"aligned"}), s.one_of({"m8n8"}), s.one_of({"trans"}), s.one_of({"b16"});
    i.control = true;
    i.execute = execute_move_matrix;
  };
}

}  // namespace graft::ptx
