// One function for each entry of the kernel table, whose comments in kernels.h say what it does. Included by the header of each device,
// inside its namespace.

void copy(const View& from, const View& to);
void fill(const View& to, double value);

void unary(UnaryOp op, const View& x, const View& y, double p0, double p1);
void binary(BinaryOp op, const View& a, const View& b, const View& y);
void select(const View& condition, const View& a, const View& b, const View& y);

void reduce(ReduceOp op, const View& x, const View& y);
void argmax(const View& x, const View& index);

void softmax(const View& x, const View& y, bool log);
void softmax_backward(const View& y, const View& dy, const View& dx, bool log);
void rms_norm(const View& x, const View& weight, double eps, const View& y, const View& rstd);
void rms_norm_backward(const View& x, const View& weight, const View& rstd, const View& dy, const View& dx, const View& dweight);
void rotary(const View& x, const View& cos, const View& sin, const View& y, bool inverse);
void cross_entropy(const View& logits, const View& labels, std::int64_t ignored, const View& losses, const View& lse);
void cross_entropy_backward(const View& logits, const View& labels, std::int64_t ignored, const View& lse, const View& dlosses,
                            const View& dlogits);

void matmul(const View& a, const View& b, const View& y);
void low_rank_linear(const View& x, const View& weight, const View& A, const View& B, double scale, const View& y,
                     const View& u);
void linear_backward(const View& dy, const View& x, const View& weight, const View& dx, const View& dweight);
void attention(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y, const View& lse);
void attention_backward(const View& q, const View& k, const View& v, const AttentionShape& shape, const View& y, const View& lse,
                        const View& dy, const View& dq, const View& dk, const View& dv);

void index_select(const View& x, int dim, const View& index, const View& y);
void index_add(const View& y, int dim, const View& index, const View& x);
void gather(const View& x, int dim, const View& index, const View& y);
void scatter_add(const View& y, int dim, const View& index, const View& x);

void draw(Draw kind, std::uint64_t seed, std::uint64_t stream, const View& y, double p0, double p1);

void inverse(const View& a, const View& y);
void solve_triangular(const View& a, const View& b, bool upper, const View& y);
void cholesky(const View& a, const View& lower);
void qr(const View& a, const View& q, const View& r);
void svd(const View& a, const View& u, const View& s, const View& vt);
