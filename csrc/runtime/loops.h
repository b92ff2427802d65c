// Loops over bytes for what oneDNN computes slowly or not at all: it has no fast kernel that repeats an 8-bit
// operand, looks bytes up, joins tensors or finds the highest of some. Each loop exists once for each
// instruction set; the best one that the processor has, and that ONEDNN_MAX_CPU_ISA allows, is taken.
#pragma once

#include <cstdint>

namespace jitquant::runtime {

// What may lie outside of [low, high] is brought there; then it is rounded, halves to even.
struct Bounds {
  float low;
  float high;
};

// The least and the largest of some numbers and zero. `spoilt` is NaN where one of them is infinite or NaN,
// and else 0.
struct Extent {
  float low;
  float high;
  float spoilt;
};

// One row of a product of integers. A sum stands for scale * factor * (sum - zero_point * total).
struct RowSums {
  const int32_t* sums;
  const float* factors;  // of each weight row its scale,
  const float* totals;   // and the sum of its weights
  float scale;
  float zero_point;
};

// What a step of a recurrent layer needs for one row of the batch. Sums, factors, totals and biases lie as
// [block][gate][16 units], gates in torch's order; the units behind the last are there and are not used.
struct Gates {
  RowSums input;
  RowSums hidden;
  const float* bias;
  const float* hidden_bias;  // of the last gate of a GRU: [block][16 units]
  float* state;              // the hidden state, and the cell state of an LSTM: [units]
  float* cell;
  float* output;  // a copy of the new hidden state
  int64_t units;
};

using GateLoop = void (*)(const Gates& gates, int64_t begin, int64_t end);  // blocks

struct Loops {
  const char* name;

  // nearbyint(in * inverse_scale) + zero_point, brought to 0 … 255 (NaN to 0), as torch.quantize_per_tensor
  // has it.
  void (*quantize)(const float* in, uint8_t* out, int64_t count, float inverse_scale, int zero_point);
  // table[in], of 256 entries.
  void (*look_up)(const uint8_t* in, uint8_t* out, int64_t count, const uint8_t* table);
  // in[row][column] * factors[column] + shifts[column]
  void (*affine)(const uint8_t* in, uint8_t* out, int64_t rows, int64_t columns, const float* factors,
                 const float* shifts, Bounds bounds);
  void (*affine_to_float)(const uint8_t* in, float* out, int64_t rows, int64_t columns, const float* factors,
                          const float* shifts, Bounds bounds);
  // a * (k[0] * b + k[1]) + (k[2] * b + k[3])
  void (*bilinear)(const uint8_t* a, const uint8_t* b, uint8_t* out, int64_t count, const float* k,
                   Bounds bounds);
  void (*bilinear_to_float)(const uint8_t* a, const uint8_t* b, float* out, int64_t count, const float* k,
                            Bounds bounds);
  // exp(in - max(in)) over its sum, for each row; then times factor, plus shift. What rounding leaves over
  // goes to the number sixteen columns on: else the many small numbers of a row would all be lost, and with
  // them their part of an average. Scratch: one row.
  void (*softmax)(const float* in, uint8_t* out, int64_t rows, int64_t columns, float factor, float shift,
                  float* scratch);
  // For each window, `step` bytes behind the one before: the highest of its lines, byte by byte, where lines
  // are `columns` apart and that long.
  void (*highest)(const uint8_t* in, uint8_t* out, int64_t windows, int64_t step, int64_t lines,
                  int64_t columns);
  // The sum of each column times factor, plus shift. Exact for up to 65,536 rows.
  void (*sum_columns)(const uint8_t* in, uint8_t* out, int64_t rows, int64_t columns, float factor,
                      float shift, Bounds bounds);
  void (*sum_columns_to_float)(const uint8_t* in, float* out, int64_t rows, int64_t columns, float factor,
                               float shift, Bounds bounds);
  // The sum of lines times their weights, [line][column]; then times factors, plus shifts. Exact for up to
  // 500 lines.
  void (*weigh_lines)(const uint8_t* const* in, const float* weights, uint8_t* out, int64_t lines,
                      int64_t columns, const float* factors, const float* shifts, Bounds bounds);
  void (*weigh_lines_to_float)(const uint8_t* const* in, const float* weights, float* out, int64_t lines,
                               int64_t columns, const float* factors, const float* shifts, Bounds bounds);
  // Three planes, pixel by pixel.
  void (*interleave3)(const uint8_t* planes, int64_t plane, uint8_t* out, int64_t count);
  // quantize of in[row][column] * factors[column], with inverse scales in the factors.
  void (*quantize_columns)(const float* in, uint8_t* out, int64_t rows, int64_t columns, const float* factors,
                           int zero_point);
  Extent (*extent)(const float* in, int64_t count);
  // A step of each kind of recurrent layer, as torch.nn defines it. NaN stays NaN.
  GateLoop lstm;
  GateLoop gru;
  GateLoop rnn_tanh;
  GateLoop rnn_relu;
  // quantize of each row with the range, zero in it, that it has: 255 steps, or 1 and 0 where all is zero.
  // Gives the scales, and minus the zero points times them; NaN for a row with NaN or infinity.
  void (*quantize_rows)(const float* in, uint8_t* out, int64_t rows, int64_t columns, float* scales,
                        float* shifts);
  // added[row][column] * factor + (shifts[row] * zeros[column] + bias[column]); nothing is added where that
  // is nullptr. It may be where the result goes.
  void (*begin_sums)(const float* added, float factor, float* out, int64_t rows, int64_t columns,
                     const float* shifts, const float* zeros, const float* bias);
};

const Loops& loops();

// Two lines, byte by byte: a[0] b[0] a[1] b[1] …
void interleave2(const uint8_t* a, const uint8_t* b, uint8_t* out, int64_t count);

// Each byte with 128 less: from unsigned to signed ones.
void make_signed(const uint8_t* in, int8_t* out, int64_t count);

// [rows][columns] to [columns][rows], where a row of the source is `step` bytes behind the one before.
void transpose(const uint8_t* from, int64_t step, uint8_t* to, int64_t rows, int64_t columns);

// For work on bytes, split between threads where it is worth it.
constexpr int64_t kGrain = 32768;

}  // namespace jitquant::runtime
