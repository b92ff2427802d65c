#include "csrc/runtime/recurrent_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

namespace jitquant::runtime {

namespace {

using dnnl::memory;

constexpr int64_t kUnits = 16;     // of a block
constexpr int64_t kMultiple = 64;  // bytes of a row that oneDNN takes at a time
constexpr size_t kMostRows = 32;   // numbers of rows for which a primitive is kept
constexpr int64_t kGrainBytes = 1 << 17;

// [gates * units, ...] to [block, gate, 16 units, ...]
at::Tensor in_blocks(const at::Tensor& rows, int64_t gates) {
  const int64_t units = rows.size(0) / gates;
  const int64_t blocks = (units + kUnits - 1) / kUnits;
  auto sizes = rows.sizes().vec();
  sizes[0] = units;
  sizes.insert(sizes.begin(), gates);
  auto padded = sizes;
  padded[1] = blocks * kUnits;
  at::Tensor result = at::zeros(padded, rows.options());
  result.narrow(1, 0, units).copy_(rows.reshape(sizes));
  padded[1] = kUnits;
  padded.insert(padded.begin() + 1, blocks);
  return result.view(padded).transpose(0, 1);
}

at::Tensor packed(const at::Tensor& weight, int64_t gates) {
  const int64_t bytes = (weight.size(1) + kMultiple - 1) / kMultiple * kMultiple;
  at::Tensor wide = at::zeros({weight.size(0), bytes}, at::kChar);
  wide.narrow(1, 0, weight.size(1)).copy_(weight);
  return in_blocks(wide.view({-1, bytes / 4, 4}), gates).permute({0, 3, 1, 2, 4}).contiguous();
}

memory::format_tag tag_of(int64_t gates) {
  return gates == 4   ? memory::format_tag::BA16a64b4a
         : gates == 3 ? memory::format_tag::BA16a48b4a
                      : memory::format_tag::BA16a16b4a;
}

}  // namespace

at::Tensor by_blocks(const at::Tensor& numbers, int64_t gates) {
  return in_blocks(numbers.to(at::kFloat), gates).contiguous();
}

GateWeight::GateWeight(const at::Tensor& weight, const at::Tensor& scales, int64_t gates)
    : gates_(gates),
      packed_(packed(weight, gates)),
      factors_(by_blocks(scales.reshape({-1}).expand({weight.size(0)}), gates)),
      totals_(by_blocks(weight.to(at::kLong).sum(1), gates)),
      multiply_row_(multiply_row_for(gates)) {}

int64_t GateWeight::grain() const { return kGrainBytes / (packed_.numel() / blocks()) + 1; }

GateWeight::MultiplicationPtr GateWeight::multiplication_of(int64_t rows) const {
  const std::pair<int64_t, int> key{rows, at::get_num_threads()};
  const std::lock_guard<std::mutex> guard(mutex_);
  const auto found = known_.find(key);
  if (found != known_.end()) {
    return found->second;
  }
  if (known_.size() >= kMostRows) {
    known_.clear();
  }
  return known_[key] = new_multiplication(rows);
}

// Our packed weight lies as oneDNN's fast kernels take it. Where it has none of them, there is only its
// reference, which is slow.
GateWeight::MultiplicationPtr GateWeight::new_multiplication(int64_t rows) const {
  if (rows < 2 || !has_integer_products()) {
    return nullptr;
  }
  const dnnl::matmul::primitive_desc desc(
      engine(), desc_of({rows, bytes()}, at::kByte, Layout::Contiguous),
      memory::desc({bytes(), sums()}, memory::data_type::s8, tag_of(gates_)),
      desc_of({rows, sums()}, at::kInt, Layout::Contiguous), new_attributes(), /*allow_empty=*/true);
  if (!desc || std::string(desc.impl_info_str()).rfind("brg", 0) != 0) {
    return nullptr;
  }
  return std::make_shared<Multiplication>(Multiplication{desc, dnnl::matmul(desc)});
}

Direction::Direction(const at::Tensor& input_weight, const at::Tensor& input_scales,
                     const at::Tensor& hidden_weight, const at::Tensor& hidden_scales, int64_t gates)
    : input(input_weight, input_scales, gates),
      hidden(hidden_weight, hidden_scales, gates),
      bias(at::zeros({hidden.sums()})),
      hidden_bias(at::zeros({hidden.sums() / gates})) {}

void Direction::set_biases(const at::Tensor& of_input, const at::Tensor& of_hidden) {
  const int64_t gates = input.gates();
  at::Tensor sum = of_input + of_hidden;
  if (gates == 3) {
    const int64_t units = of_input.size(0) / gates;
    sum.narrow(0, 2 * units, units).copy_(of_input.narrow(0, 2 * units, units));
    hidden_bias = by_blocks(of_hidden.narrow(0, 2 * units, units), 1);
  }
  bias = by_blocks(sum, gates);
}

Product::Product(const GateWeight& weight, int64_t rows)
    : weight_(weight), rows_(rows), multiplication_(weight.multiplication_of(rows)) {
  if (has_primitive()) {
    const auto& desc = multiplication_->desc;
    in_ = memory(desc.src_desc(), engine(), nullptr);
    packed_ = memory(desc.weights_desc(), engine(), const_cast<void*>(weight.packed_.const_data_ptr()));
    sums_ = memory(desc.dst_desc(), engine(), nullptr);
    scratchpad_ = memory(desc.scratchpad_desc(), engine());
    arguments_ = {{{DNNL_ARG_SRC, in_.get()},
                   {DNNL_ARG_WEIGHTS, packed_.get()},
                   {DNNL_ARG_DST, sums_.get()},
                   {DNNL_ARG_SCRATCHPAD, scratchpad_.get()}}};
  }
}

std::string Product::implementation() const {
  return has_primitive() ? multiplication_->desc.impl_info_str() : loops().name;
}

void Product::run(const uint8_t* in, int32_t* sums) {
  if (has_primitive()) {
    in_.set_data_handle(const_cast<uint8_t*>(in));
    sums_.set_data_handle(sums);
    check(dnnl_primitive_execute(multiplication_->primitive.get(), stream().get(),
                                 static_cast<int>(arguments_.size()), arguments_.data()),
          "multiply");
    return;
  }
  at::parallel_for(0, weight_.blocks(), weight_.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows_; ++row) {
      weight_.multiply_row(in + row * weight_.bytes(), begin, end, sums + row * weight_.sums());
    }
  });
}

}  // namespace jitquant::runtime
