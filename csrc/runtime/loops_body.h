// The loops of loops.h, in terms of `Numbers`: sixteen floats in the registers of one instruction set.
// loops.cpp includes this once for each set, within a namespace of its own.

template <typename Compute>
inline void by_sixteen(int64_t count, Compute compute) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    compute(i, 16);
  }
  if (i < count) {
    compute(i, static_cast<int>(count - i));
  }
}

void quantize(const float* in, uint8_t* out, int64_t count, float inverse_scale, int zero_point) {
  const Numbers scale = spread(inverse_scale);
  const Numbers low = spread(static_cast<float>(-zero_point));
  const Numbers high = spread(static_cast<float>(255 - zero_point));
  const Numbers zero = spread(static_cast<float>(zero_point));
  by_sixteen(count, [&](int64_t i, int n) {
    store(within(times(load(in + i, n), scale), low, high), zero, out + i, n);
  });
}

template <typename Out>
void affine_to(const uint8_t* in, Out* out, int64_t rows, int64_t columns, const float* factors,
               const float* shifts, Bounds bounds) {
  const Numbers low = spread(bounds.low);
  const Numbers high = spread(bounds.high);
  if (columns == 1) {
    const Numbers factor = spread(*factors);
    const Numbers shift = spread(*shifts);
    by_sixteen(rows, [&](int64_t i, int n) {
      store(within(times_plus(load(in + i, n), factor, shift), low, high), out + i, n);
    });
    return;
  }
  for (int64_t row = 0; row < rows; ++row, in += columns, out += columns) {
    by_sixteen(columns, [&](int64_t i, int n) {
      store(within(times_plus(load(in + i, n), load(factors + i, n), load(shifts + i, n)), low, high),
            out + i, n);
    });
  }
}

template <typename Out>
void bilinear_to(const uint8_t* a, const uint8_t* b, Out* out, int64_t count, const float* k, Bounds bounds) {
  const Numbers low = spread(bounds.low);
  const Numbers high = spread(bounds.high);
  const Numbers k0 = spread(k[0]);
  const Numbers k1 = spread(k[1]);
  const Numbers k2 = spread(k[2]);
  const Numbers k3 = spread(k[3]);
  by_sixteen(count, [&](int64_t i, int n) {
    const Numbers right = load(b + i, n);
    const Numbers sum = times_plus(load(a + i, n), times_plus(right, k0, k1), times_plus(right, k2, k3));
    store(within(sum, low, high), out + i, n);
  });
}

const Loops all = {kName,
                   quantize,
                   look_up,
                   affine_to<uint8_t>,
                   affine_to<float>,
                   bilinear_to<uint8_t>,
                   bilinear_to<float>,
                   interleave3};
