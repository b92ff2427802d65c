// A weight of a recurrent layer, packed so that all gates of sixteen hidden units lie together, and its
// products with rows of bytes.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "csrc/runtime/onednn.h"
#include "csrc/runtime/recurrent_rows.h"

namespace jitquant::runtime {

// [gates * units] numbers as [block][gate][16 units], in float; what is behind the last unit is 0.
at::Tensor by_blocks(const at::Tensor& numbers, int64_t gates);

class GateWeight {
 public:
  // Int8 [gates * units, features]; one scale, or one for each row.
  GateWeight(const at::Tensor& weight, const at::Tensor& scales, int64_t gates);

  int64_t gates() const { return gates_; }
  int64_t blocks() const { return packed_.size(0); }
  int64_t sums() const { return blocks() * gates_ * 16; }  // of each row
  int64_t bytes() const { return packed_.size(1) * 4; }    // of a row of the input, zeros at its end included
  // How many blocks a thread has to have to be worth being woken.
  int64_t grain() const;
  const float* factors() const { return factors_.const_data_ptr<float>(); }
  const float* totals() const { return totals_.const_data_ptr<float>(); }

  // Of one row; see recurrent_rows.h.
  void multiply_row(const uint8_t* in, int64_t begin, int64_t end, int32_t* sums) const {
    multiply_row_(in, packed_.const_data_ptr<int8_t>(), packed_.size(1), begin, end, sums);
  }

 private:
  friend class Product;
  struct Multiplication {
    dnnl::matmul::primitive_desc desc;
    dnnl::matmul primitive;
  };
  using MultiplicationPtr = std::shared_ptr<const Multiplication>;
  MultiplicationPtr multiplication_of(int64_t rows) const;
  MultiplicationPtr new_multiplication(int64_t rows) const;

  const int64_t gates_;
  const at::Tensor packed_;  // [block][four][gate][16 units][4]
  const at::Tensor factors_;
  const at::Tensor totals_;
  const MultiplyRow multiply_row_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<int64_t, int>, MultiplicationPtr> known_;  // of rows and threads
};

// What one direction of one layer computes with.
struct Direction {
  // Weights in torch's order, [gates * units, ...]; scales as for GateWeight.
  Direction(const at::Tensor& input_weight, const at::Tensor& input_scales, const at::Tensor& hidden_weight,
            const at::Tensor& hidden_scales, int64_t gates);

  // A GRU's reset gate multiplies the bias of the last gate of the hidden state, so that one stays apart.
  void set_biases(const at::Tensor& of_input, const at::Tensor& of_hidden);

  GateWeight input;
  GateWeight hidden;
  at::Tensor bias;         // by blocks, as are the sums
  at::Tensor hidden_bias;  // of the last gate alone
};

// Products of one call, all with that many rows: by oneDNN, or row by row where that is faster or all there
// is.
class Product {
 public:
  Product(const GateWeight& weight, int64_t rows);

  // False where the caller has to multiply row by row.
  bool has_primitive() const { return multiplication_ != nullptr; }
  int64_t rows() const { return rows_; }
  std::string implementation() const;
  // All sums of all rows.
  void run(const uint8_t* in, int32_t* sums);

 private:
  const GateWeight& weight_;
  const int64_t rows_;
  const GateWeight::MultiplicationPtr multiplication_;
  dnnl::memory in_;
  dnnl::memory packed_;
  dnnl::memory sums_;
  dnnl::memory scratchpad_;
  std::array<dnnl_exec_arg_t, 4> arguments_;
};

}  // namespace jitquant::runtime
