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

void quantize_columns(const float* in, uint8_t* out, int64_t rows, int64_t columns, const float* factors,
                      int zero_point) {
  const Numbers low = spread(static_cast<float>(-zero_point));
  const Numbers high = spread(static_cast<float>(255 - zero_point));
  const Numbers zero = spread(static_cast<float>(zero_point));
  for (int64_t row = 0; row < rows; ++row, in += columns, out += columns) {
    by_sixteen(columns, [&](int64_t i, int n) {
      store(within(times(load(in + i, n), load(factors + i, n)), low, high), zero, out + i, n);
    });
  }
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

// Of numbers in [-87, 87]. A power of two times a polynomial on [-ln 2 / 2, ln 2 / 2] (Taylor's, to the fifth
// power: the error is 4e-6).
inline Numbers exponential_of_bounded(const Numbers& bounded) {
  const Numbers power = rounded(times(bounded, spread(1.44269504F)));
  const Numbers rest = times_plus(power, spread(-0.693147181F), bounded);
  const Numbers one = spread(1.0F);
  Numbers sum = times_plus(spread(1.0F / 120), rest, spread(1.0F / 24));
  sum = times_plus(sum, rest, spread(1.0F / 6));
  sum = times_plus(sum, rest, spread(1.0F / 2));
  sum = times_plus(sum, rest, one);
  sum = times_plus(sum, rest, one);
  return times_power_of_two(sum, power);
}

// Of numbers below zero.
inline Numbers exponential(const Numbers& x) {
  return exponential_of_bounded(within(x, spread(-87.0F), spread(0.0F)));
}

// Elements behind the end take no part.
inline void softmax_row(const float* in, uint8_t* out, float* scratch, int64_t columns, float factor,
                        const Numbers& shift) {
  Numbers highest = spread(-3.402823466e38F);
  const int64_t whole = columns / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) {
    highest = higher(highest, load(in + i, 16));
  }
  float top = largest(highest);
  for (int64_t i = whole; i < columns; ++i) {
    top = in[i] > top ? in[i] : top;
  }
  const Numbers less = spread(-top);
  const Numbers one = spread(1.0F);
  Numbers sums = spread(0.0F);
  for (int64_t i = 0; i < whole; i += 16) {
    const Numbers y = exponential(times_plus(load(in + i, 16), one, less));
    store(y, scratch + i, 16);
    sums = times_plus(y, one, sums);
  }
  float sum = total(sums);
  if (whole < columns) {
    const int left = static_cast<int>(columns - whole);
    store(exponential(times_plus(load(in + whole, left), one, less)), scratch + whole, left);
    for (int64_t i = whole; i < columns; ++i) {
      sum += scratch[i];
    }
  }
  const Numbers scale = spread(factor / sum);
  Numbers left_over = spread(0.0F);
  by_sixteen(columns, [&](int64_t i, int n) {
    const Numbers wanted = times_plus(one, left_over, times_plus(load(scratch + i, n), scale, shift));
    const Numbers whole_number = rounded(within(wanted, spread(0.0F), spread(255.0F)));
    store(whole_number, out + i, n);
    left_over = within(times_plus(whole_number, spread(-1.0F), wanted), spread(-0.5F), spread(0.5F));
  });
}

void softmax(const float* in, uint8_t* out, int64_t rows, int64_t columns, float factor, float shift,
             float* scratch) {
  for (int64_t row = 0; row < rows; ++row, in += columns, out += columns) {
    softmax_row(in, out, scratch, columns, factor, spread(shift));
  }
}

// What is left at the end is done a second time.
template <typename Vector>
inline void highest_of_lines(const uint8_t* in, uint8_t* out, int64_t lines, int64_t columns) {
  constexpr auto kWidth = static_cast<int64_t>(sizeof(Vector));
  for (int64_t i = 0; i < columns; i += kWidth) {
    const int64_t at = i + kWidth <= columns ? i : columns - kWidth;
    Vector found;
    std::memcpy(&found, in + at, sizeof(found));
    for (int64_t line = 1; line < lines; ++line) {
      Vector other;
      std::memcpy(&other, in + line * columns + at, sizeof(other));
      found = found > other ? found : other;
    }
    std::memcpy(out + at, &found, sizeof(found));
  }
}

void highest(const uint8_t* in, uint8_t* out, int64_t windows, int64_t step, int64_t lines, int64_t columns) {
  using Sixteen = uint8_t __attribute__((vector_size(16)));
  for (int64_t window = 0; window < windows; ++window, in += step, out += columns) {
    if (columns >= static_cast<int64_t>(sizeof(Bytes))) {
      highest_of_lines<Bytes>(in, out, lines, columns);
    } else if (columns >= 16) {
      highest_of_lines<Sixteen>(in, out, lines, columns);
    } else {
      highest_of_lines<uint8_t>(in, out, lines, columns);
    }
  }
}

template <typename Out>
void sum_columns_to(const uint8_t* in, Out* out, int64_t rows, int64_t columns, float factor, float shift,
                    Bounds bounds) {
  const Numbers one = spread(1.0F);
  by_sixteen(columns, [&](int64_t i, int n) {
    Numbers sum = spread(0.0F);
    for (int64_t row = 0; row < rows; ++row) {
      sum = times_plus(load(in + row * columns + i, n), one, sum);
    }
    store(within(times_plus(sum, spread(factor), spread(shift)), spread(bounds.low), spread(bounds.high)),
          out + i, n);
  });
}

template <typename Out>
void weigh_lines_to(const uint8_t* const* in, const float* weights, Out* out, int64_t lines, int64_t columns,
                    const float* factors, const float* shifts, Bounds bounds) {
  const Numbers low = spread(bounds.low);
  const Numbers high = spread(bounds.high);
  by_sixteen(columns, [&](int64_t i, int n) {
    Numbers sum = spread(0.0F);
    for (int64_t line = 0; line < lines; ++line) {
      sum = times_plus(load(in[line] + i, n), load(weights + line * columns + i, n), sum);
    }
    store(within(times_plus(sum, load(factors + i, n), load(shifts + i, n)), low, high), out + i, n);
  });
}

Extent extent(const float* in, int64_t count) {
  const Numbers zero = spread(0.0F);
  Numbers low = zero;
  Numbers high = zero;
  Numbers spoilt = zero;
  by_sixteen(count, [&](int64_t i, int n) {
    const Numbers x = load(in + i, n);
    low = lower(low, x);
    high = higher(high, x);
    spoilt = times_plus(x, zero, spoilt);
  });
  return {-largest(times(low, spread(-1.0F))), largest(high), total(spoilt)};
}

inline Numbers plus(const Numbers& x, const Numbers& y) { return times_plus(x, spread(1.0F), y); }

// Where the exponential of -x is used, products of two of them have to be floats. `higher` and `lower` give
// their second number where one is NaN.
inline Numbers exponential_of_negative(const Numbers& x, float factor) {
  const Numbers scaled = times(x, spread(-factor));
  return exponential_of_bounded(lower(spread(43.0F), higher(spread(-43.0F), scaled)));
}

inline Numbers weighed(const RowSums& row, int64_t at) {
  const Numbers sum = times_plus(load(row.totals + at, 16), spread(-row.zero_point), load(row.sums + at));
  return times(sum, times(load(row.factors + at, 16), spread(row.scale)));
}

inline Numbers gate(const Gates& gates, int64_t at) {
  const Numbers input = plus(weighed(gates.input, at), load(gates.bias + at, 16));
  return plus(input, weighed(gates.hidden, at));
}

template <typename Compute>
inline void for_each_block(const Gates& gates, int64_t begin, int64_t end, Compute compute) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t unit = block * 16;
    const int n = gates.units - unit < 16 ? static_cast<int>(gates.units - unit) : 16;
    const Numbers state = compute(block, unit, n);
    store(state, gates.state + unit, n);
    store(state, gates.output + unit, n);
  }
}

// sigmoid(x) is 1 / (1 + exp(-x)), and tanh(x) is (1 - exp(-2x)) / (1 + exp(-2x)); a product of both is one
// division.
inline Numbers sigmoid_times_tanh(const Numbers& x, const Numbers& y) {
  const Numbers one = spread(1.0F);
  const Numbers e = exponential_of_negative(x, 1);
  const Numbers f = exponential_of_negative(y, 2);
  return over(times_plus(f, spread(-1.0F), one), times(plus(e, one), plus(f, one)));
}

inline Numbers sigmoid(const Numbers& x) {
  const Numbers one = spread(1.0F);
  return over(one, plus(exponential_of_negative(x, 1), one));
}

inline Numbers tanh_of(const Numbers& x) {
  const Numbers one = spread(1.0F);
  const Numbers e = exponential_of_negative(x, 2);
  return over(times_plus(e, spread(-1.0F), one), plus(e, one));
}

void lstm(const Gates& gates, int64_t begin, int64_t end) {
  for_each_block(gates, begin, end, [&](int64_t block, int64_t unit, int n) {
    const int64_t at = block * 64;
    const Numbers added = sigmoid_times_tanh(gate(gates, at), gate(gates, at + 32));
    const Numbers cell = times_plus(sigmoid(gate(gates, at + 16)), load(gates.cell + unit, n), added);
    store(cell, gates.cell + unit, n);
    return sigmoid_times_tanh(gate(gates, at + 48), cell);
  });
}

void gru(const Gates& gates, int64_t begin, int64_t end) {
  for_each_block(gates, begin, end, [&](int64_t block, int64_t unit, int n) {
    const int64_t at = block * 48;
    const Numbers reset = sigmoid(gate(gates, at));
    const Numbers update = sigmoid(gate(gates, at + 16));
    const Numbers input = plus(weighed(gates.input, at + 32), load(gates.bias + at + 32, 16));
    const Numbers hidden = plus(weighed(gates.hidden, at + 32), load(gates.hidden_bias + unit, 16));
    const Numbers fresh = tanh_of(times_plus(reset, hidden, input));
    const Numbers change = times_plus(fresh, spread(-1.0F), load(gates.state + unit, n));
    return times_plus(update, change, fresh);
  });
}

void rnn_tanh(const Gates& gates, int64_t begin, int64_t end) {
  for_each_block(gates, begin, end,
                 [&](int64_t block, int64_t, int) { return tanh_of(gate(gates, block * 16)); });
}

void rnn_relu(const Gates& gates, int64_t begin, int64_t end) {
  for_each_block(gates, begin, end,
                 [&](int64_t block, int64_t, int) { return higher(spread(0.0F), gate(gates, block * 16)); });
}

void quantize_rows(const float* in, uint8_t* out, int64_t rows, int64_t columns, float* scales,
                   float* shifts) {
  constexpr double kSmallest = 1e-30;  // whose inverse is a float
  for (int64_t row = 0; row < rows; ++row, in += columns, out += columns) {
    const Extent range = extent(in, columns);
    const double step = (static_cast<double>(range.high) - static_cast<double>(range.low)) / 255;
    const bool has_range = step >= kSmallest && range.spoilt == 0.0F;
    const double scale = has_range ? step : 1;
    const int zero_point = has_range ? static_cast<int>(-static_cast<double>(range.low) / scale + 0.5) : 0;
    quantize(in, out, columns, static_cast<float>(1 / scale), zero_point);
    scales[row] = static_cast<float>(scale) + range.spoilt;
    shifts[row] = static_cast<float>(-scale * zero_point);
  }
}

void begin_sums(const float* added, float factor, float* out, int64_t rows, int64_t columns,
                const float* shifts, const float* zeros, const float* bias) {
  const Numbers times_added = spread(factor);
  for (int64_t row = 0; row < rows; ++row, out += columns) {
    const Numbers shift = spread(shifts[row]);
    by_sixteen(columns, [&](int64_t i, int n) {
      const Numbers begun = times_plus(load(zeros + i, n), shift, load(bias + i, n));
      store(added == nullptr ? begun : times_plus(load(added + i, n), times_added, begun), out + i, n);
    });
    added = added == nullptr ? nullptr : added + columns;
  }
}

const Loops all = {kName,
                   quantize,
                   look_up,
                   affine_to<uint8_t>,
                   affine_to<float>,
                   bilinear_to<uint8_t>,
                   bilinear_to<float>,
                   softmax,
                   highest,
                   sum_columns_to<uint8_t>,
                   sum_columns_to<float>,
                   weigh_lines_to<uint8_t>,
                   weigh_lines_to<float>,
                   interleave3,
                   quantize_columns,
                   extent,
                   lstm,
                   gru,
                   rnn_tanh,
                   rnn_relu,
                   quantize_rows,
                   begin_sums};
