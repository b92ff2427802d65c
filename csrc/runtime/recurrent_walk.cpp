#include "csrc/runtime/recurrent_walk.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace jitquant::runtime {

namespace {

constexpr int64_t kRowsAtOnce = 64;  // of the input, so that their sums stay in the cache

Rounding rounding_of(const Extent& extent) {
  constexpr double smallest = 1e-30;  // whose inverse is a float
  if (std::isnan(extent.spoilt)) {
    return {extent.spoilt, 0};
  }
  const double scale = (static_cast<double>(extent.high) - extent.low) / 255;
  if (scale < smallest) {
    return {1, 0};
  }
  return {static_cast<float>(scale), static_cast<float>(std::nearbyint(-extent.low / scale))};
}

// oneDNN makes a primitive for each number of rows. Few are made: others take the next larger.
int64_t rounded_up(int64_t rows) {
  return rows <= 16 ? static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)))
                    : (rows + 15) / 16 * 16;
}

RowSums row_sums(const GateWeight& weight, const int32_t* sums, const Rounding& rounding) {
  return {sums, weight.factors(), weight.totals(), rounding.scale, rounding.zero_point};
}

}  // namespace

Rows::Rows(const at::Tensor& tensor, int64_t column)
    : data(tensor.data_ptr<float>() + column),
      by_step(tensor.dim() == 3 ? tensor.stride(0) : 0),
      by_first(tensor.dim() == 3 ? 0 : tensor.stride(0)),
      by_row(tensor.stride(-2)) {}

RoundedRows::RoundedRows(int64_t rows, int64_t width)
    : width(width), memory(at::empty({rows, width}, at::kByte)), roundings(static_cast<size_t>(rows)) {}

void RoundedRows::round(int64_t row, const float* numbers, int64_t count) {
  const Rounding rounding = rounding_of(loops().extent(numbers, count));
  loops().quantize(numbers, bytes(row), count, 1 / rounding.scale, static_cast<int>(rounding.zero_point));
  std::memset(bytes(row) + count, 0, static_cast<size_t>(width - count));
  roundings[static_cast<size_t>(row)] = rounding;
}

RoundedRows rounded_input(const Rows& input, int64_t features, int64_t width, const Sequence& sequence) {
  const int64_t spare = rounded_up(std::max(kRowsAtOnce, sequence.batch(0)));
  RoundedRows result(sequence.rows() + spare, width);
  const int64_t grain = kGrain / (features * sequence.batch(0)) + 1;
  at::parallel_for(0, sequence.steps(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t step = begin; step < end; ++step) {
      for (int64_t row = 0; row < sequence.batch(step); ++row) {
        result.round(sequence.first_of(step) + row, input.at(sequence, step, row), features);
      }
    }
  });
  return result;
}

Walk::Walk(const Direction& direction, GateLoop loop, const Sequence& sequence, const RoundedRows& input,
           const Rows& output, float* state, float* cell, int64_t units)
    : direction_(direction),
      loop_(loop),
      sequence_(sequence),
      input_(input),
      output_(output),
      state_(state),
      cell_(cell),
      units_(units),
      hidden_(sequence.batch(0), direction.hidden.bytes()),
      hidden_product_(direction.hidden, sequence.batch(0)),
      hidden_sums_(at::empty({sequence.batch(0), direction.hidden.sums()}, at::kInt)) {
  for (int64_t row = 0; row < sequence.batch(0); ++row) {
    round_state(row);
  }
}

void Walk::forwards() {
  for (int64_t begin = 0, end = 0; begin < sequence_.steps(); begin = end) {
    end = begin + 1;
    while (end < sequence_.steps() && sequence_.rows_of(begin, end + 1) <= kRowsAtOnce) {
      ++end;
    }
    multiply_input(begin, end);
    for (int64_t step = begin; step < end; ++step) {
      take(step);
    }
  }
}

void Walk::backwards() {
  for (int64_t end = sequence_.steps(), begin = end; end > 0; end = begin) {
    begin = end - 1;
    while (begin > 0 && sequence_.rows_of(begin - 1, end) <= kRowsAtOnce) {
      --begin;
    }
    multiply_input(begin, end);
    for (int64_t step = end; step-- > begin;) {
      take(step);
    }
  }
}

void Walk::multiply_input(int64_t begin, int64_t end) {
  const int64_t rows = rounded_up(sequence_.rows_of(begin, end));
  if (!input_product_ || input_product_->rows() != rows) {
    input_product_.emplace(direction_.input, rows);
    input_sums_ = at::empty({rows, direction_.input.sums()}, at::kInt);
  }
  first_ = sequence_.first_of(begin);
  input_product_->run(input_.bytes(first_), input_sums_.data_ptr<int32_t>());
}

void Walk::take(int64_t step) {
  if (sequence_.batch(step) > 1 && hidden_product_.has_primitive()) {
    take_at_once(step);
  } else {
    take_by_row(step);
  }
}

// Rows that are over are multiplied too: a product of fewer would be another primitive.
void Walk::take_at_once(int64_t step) {
  hidden_product_.run(hidden_.bytes(0), hidden_sums(0));
  const int64_t grain = kGrain / direction_.hidden.sums() + 1;
  at::parallel_for(0, sequence_.batch(step), grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      loop_(gates(step, row), 0, direction_.hidden.blocks());
      round_state(row);
    }
  });
}

void Walk::take_by_row(int64_t step) {
  const GateWeight& weight = direction_.hidden;
  at::parallel_for(0, weight.blocks(), weight.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < sequence_.batch(step); ++row) {
      weight.multiply_row(hidden_.bytes(row), begin, end, hidden_sums(row));
      loop_(gates(step, row), begin, end);
    }
  });
  for (int64_t row = 0; row < sequence_.batch(step); ++row) {
    round_state(row);
  }
}

void Walk::round_state(int64_t row) { hidden_.round(row, state_ + row * units_, units_); }

Gates Walk::gates(int64_t step, int64_t row) const {
  const int64_t place = sequence_.first_of(step) + row;
  const int32_t* sums = input_sums_.data_ptr<int32_t>() + (place - first_) * direction_.input.sums();
  return {row_sums(direction_.input, sums, input_.rounding(place)),
          row_sums(direction_.hidden, hidden_sums(row), hidden_.rounding(row)),
          direction_.bias.const_data_ptr<float>(),
          direction_.hidden_bias.const_data_ptr<float>(),
          state_ + row * units_,
          cell_ == nullptr ? nullptr : cell_ + row * units_,
          output_.at(sequence_, step, row),
          units_};
}

int32_t* Walk::hidden_sums(int64_t row) const {
  return hidden_sums_.data_ptr<int32_t>() + row * direction_.hidden.sums();
}

}  // namespace jitquant::runtime
