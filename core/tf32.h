// tf32: within a guard, products of f32 matrices on a GPU round their operands, which its tensor cores then multiply several times as fast.
#pragma once

namespace graft::tf32 {

/// Whether products may do so in this thread; false outside of any guard.
bool allowed();

/// Allows it for a scope, or forbids it within one that does. The operands of dense f32 products on a GPU are then rounded to tf32's
/// 10 bits of mantissa (f32 has 23), their sums are f32 as before: what matmul, linear and their gradients multiply there, with the
/// products of adapters on dense layers among them. As before are f64, bf16 and f16, products with packed weights and the shares that
/// adapters have in them, the gradients of factors of up to 32 ranks, which a kernel of f32 makes (cuda/narrow.cu), attention, linear
/// algebra, and everything on the CPU. Of this thread, as autocast is: backward rounds where it is called within a guard, wherever
/// forward was.
class Guard {
 public:
  explicit Guard(bool allow = true);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  bool previous_;
};

}  // namespace graft::tf32
