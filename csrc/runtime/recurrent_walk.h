// One direction of one recurrent layer going through a sequence, step by step.
#pragma once

#include <optional>
#include <vector>

#include "csrc/runtime/loops.h"
#include "csrc/runtime/recurrent_weight.h"

namespace jitquant::runtime {

// Rows of the batch, step after step; in a packed sequence a step may have fewer than the one before.
struct Sequence {
  std::vector<int64_t> first;  // the first row of each step, and how many rows there are

  int64_t first_of(int64_t step) const { return first[static_cast<size_t>(step)]; }
  int64_t rows_of(int64_t begin, int64_t end) const { return first_of(end) - first_of(begin); }
  int64_t steps() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t batch(int64_t step) const { return rows_of(step, step + 1); }
  int64_t rows() const { return first.back(); }
};

// Where the rows of a sequence lie: those of a tensor [T, B, ...] with any strides, or, of a tensor of two
// dimensions, one behind the other. The numbers of a row are neighbours.
struct Rows {
  explicit Rows(const at::Tensor& tensor, int64_t column = 0);

  float* at(const Sequence& sequence, int64_t step, int64_t row) const {
    return data + step * by_step + sequence.first_of(step) * by_first + row * by_row;
  }

  float* data;
  int64_t by_step;
  int64_t by_first;
  int64_t by_row;
};

// An integer of a row stands for scale * (integer - zero_point). The scale is NaN where a number of the row
// is NaN or infinite.
struct Rounding {
  float scale;
  float zero_point;
};

// Rows of integers, each with a range of its own, and how each was rounded.
struct RoundedRows {
  RoundedRows(int64_t rows, int64_t width);

  uint8_t* bytes(int64_t row) const { return memory.data_ptr<uint8_t>() + row * width; }
  const Rounding& rounding(int64_t row) const { return roundings[static_cast<size_t>(row)]; }
  // Behind the last number come zeros up to the width.
  void round(int64_t row, const float* numbers, int64_t count);

  int64_t width;
  at::Tensor memory;
  std::vector<Rounding> roundings;
};

// With rows behind the last that products of more rows may read.
RoundedRows rounded_input(const Rows& input, int64_t features, int64_t width, const Sequence& sequence);

class Walk {
 public:
  // The states, [batch, units], are what it begins with and, in the end, what it ends with: a row that is
  // over keeps its own. The cell state is null where there is none.
  Walk(const Direction& direction, GateLoop loop, const Sequence& sequence, const RoundedRows& input,
       const Rows& output, float* state, float* cell, int64_t units);

  void forwards();
  void backwards();

 private:
  void multiply_input(int64_t begin, int64_t end);
  void take(int64_t step);
  void take_at_once(int64_t step);
  void take_by_row(int64_t step);
  void round_state(int64_t row);
  Gates gates(int64_t step, int64_t row) const;
  int32_t* hidden_sums(int64_t row) const;

  const Direction& direction_;
  const GateLoop loop_;
  const Sequence& sequence_;
  const RoundedRows& input_;
  const Rows output_;
  float* const state_;
  float* const cell_;
  const int64_t units_;
  RoundedRows hidden_;
  Product hidden_product_;
  at::Tensor hidden_sums_;
  std::optional<Product> input_product_;
  at::Tensor input_sums_;
  int64_t first_ = 0;  // the row of the sequence that the sums of the input begin with
};

}  // namespace jitquant::runtime
