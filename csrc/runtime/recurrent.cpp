#include "csrc/runtime/recurrent.h"

#include <ATen/ATen.h>

#include "csrc/runtime/recurrent_walk.h"

namespace jitquant::runtime {

namespace {

constexpr int64_t kMostFeatures = 65536;  // whose products 32 bits hold

struct Kind {
  const char* name;
  int64_t gates;
  GateLoop Loops::* loop;
};

const Kind& kind_of(const std::string& name) {
  static const Kind kinds[] = {{"lstm", 4, &Loops::lstm},
                               {"gru", 3, &Loops::gru},
                               {"rnn_tanh", 1, &Loops::rnn_tanh},
                               {"rnn_relu", 1, &Loops::rnn_relu}};
  for (const Kind& kind : kinds) {
    if (kind.name == name) {
      return kind;
    }
  }
  TORCH_CHECK(false, "jitquant::recurrent_prepack: there is no kind '", name,
              "'; give lstm, gru, rnn_tanh or rnn_relu");
}

Sequence sequence_of(Tensors inputs) {
  Sequence sequence{{0}};
  if (inputs[0].dim() == 3) {
    for (int64_t step = 1; step <= inputs[0].size(0); ++step) {
      sequence.first.push_back(step * inputs[0].size(1));
    }
    return sequence;
  }
  const at::Tensor& sizes = inputs.back();
  const auto* batch = sizes.const_data_ptr<int64_t>();
  for (int64_t step = 0; step < sizes.numel(); ++step) {
    sequence.first.push_back(sequence.first.back() + batch[step]);
  }
  return sequence;
}

// The last result lies as the input does, batch or step first.
at::Tensor empty_output(const at::Tensor& input, int64_t features) {
  std::vector<int64_t> sizes = input.sizes().vec();
  sizes.back() = features;
  if (input.dim() == 3 && input.stride(0) < input.stride(1)) {
    std::swap(sizes[0], sizes[1]);
    return at::empty(sizes, at::kFloat).transpose(0, 1);
  }
  return at::empty(sizes, at::kFloat);
}

float* state_of(const at::Tensor& states, size_t index) {
  return states.data_ptr<float>() + static_cast<int64_t>(index) * states.stride(0);
}

}  // namespace

Recurrent::Recurrent(Spec given) : Kernel(std::move(given)) {
  const Kind& kind = kind_of(this->kind());
  const auto both = static_cast<size_t>(spec_.integer("directions"));
  const size_t matrices = this->matrices();
  const bool has_biases = spec_.tensors.size() == matrices * 3;
  TORCH_CHECK(matrices > 0 && (has_biases || spec_.tensors.size() == matrices * 2),
              "jitquant::recurrent_prepack: there have to be ", matrices,
              " weights, w_ih and w_hh of each layer "
              "and direction, and there are ",
              spec_.tensors.size(),
              " tensors in all; give those of one network, "
              "which has no projections");
  gates_ = kind.gates;
  loop_ = loops().*kind.loop;
  TORCH_CHECK(spec_.tensors[0].dim() == 2 && spec_.tensors[1].dim() == 2,
              "jitquant::recurrent_prepack: a weight has to be a matrix; give w_ih and w_hh of each layer");
  features_ = spec_.tensors[0].size(1);
  units_ = spec_.tensors[1].size(1);
  for (size_t i = 0; i < matrices; i += 2) {
    check_matrix(i, i < both * 2 ? features_ : units_ * static_cast<int64_t>(both));
    check_matrix(i + 1, units_);
    const auto& tensors = spec_.tensors;
    auto direction = std::make_unique<Direction>(tensors[i], tensors[matrices + i], tensors[i + 1],
                                                 tensors[matrices + i + 1], gates_);
    if (has_biases) {
      check_biases(2 * matrices + i);
      direction->set_biases(tensors[2 * matrices + i], tensors[2 * matrices + i + 1]);
    }
    directions_.push_back(std::move(direction));
  }
}

Recurrent::~Recurrent() = default;

size_t Recurrent::matrices() const {
  return static_cast<size_t>(spec_.integer("layers") * spec_.integer("directions") * 2);
}

void Recurrent::check_matrix(size_t index, int64_t features) const {
  const at::Tensor& weight = spec_.tensors[index];
  const at::Tensor& scales = spec_.tensors[index + matrices()];
  const int64_t rows = gates_ * units_;
  TORCH_CHECK(weight.scalar_type() == at::kChar && weight.sizes() == c10::IntArrayRef({rows, features}),
              "jitquant::recurrent_prepack: weight ", index, " is ", weight.scalar_type(), " ",
              weight.sizes(), " and has to be int8 [", rows, ", ", features,
              "]; give w_ih and w_hh of each layer and direction");
  TORCH_CHECK(features > 0 && features <= kMostFeatures, "jitquant::recurrent_prepack: weight ", index,
              " takes ", features, " features and may take 1 to ", kMostFeatures, "; leave it float");
  TORCH_CHECK(scales.scalar_type() == at::kFloat && (scales.numel() == 1 || scales.numel() == rows),
              "jitquant::recurrent_prepack: there are ", scales.numel(), " scales (", scales.scalar_type(),
              ") of weight ", index, "; give one float32, or one for each of its ", rows, " rows");
}

void Recurrent::check_biases(size_t index) const {
  for (size_t i = index; i < index + 2; ++i) {
    const at::Tensor& bias = spec_.tensors[i];
    TORCH_CHECK(bias.scalar_type() == at::kFloat && bias.sizes() == c10::IntArrayRef({gates_ * units_}),
                "jitquant::recurrent_prepack: a bias is ", bias.scalar_type(), " ", bias.sizes(),
                " and has to be float32 [", gates_ * units_,
                "]; give b_ih and b_hh of each layer and direction");
  }
}

void Recurrent::check(const std::string& op, Tensors inputs) const {
  const at::Tensor& input = inputs[0];
  TORCH_CHECK(input.size(-1) == features_, "jitquant::", op, ": the input has ", input.size(-1),
              " features and the weight takes ", features_, "; give it what the model was made for");
  TORCH_CHECK(input.dim() == 2 || input.size(0) > 0, "jitquant::", op, ": there is no step in the input, ",
              input.sizes(), "; give it at least one");
  const bool packed = input.dim() == 2;
  if (packed) {
    check_sequence(op, inputs.back(), input.size(0));
  }
  const int64_t batch = packed ? inputs.back().const_data_ptr<int64_t>()[0] : input.size(1);
  const std::vector<int64_t> sizes{static_cast<int64_t>(directions_.size()), batch, units_};
  for (size_t i = 1; i <= states(); ++i) {
    TORCH_CHECK(inputs[i].sizes() == c10::IntArrayRef(sizes), "jitquant::", op, ": the ",
                i == 1 ? "hidden" : "cell", " state is ", inputs[i].sizes(), " and has to be ",
                c10::IntArrayRef(sizes),
                " (layers times directions, batch, hidden units); give one that fits the input");
  }
  for (size_t i = 0; i <= states(); ++i) {
    TORCH_CHECK(inputs[i].scalar_type() == at::kFloat, "jitquant::", op, ": ",
                i == 0 ? "the input" : "a state", " is ", inputs[i].scalar_type(),
                " and has to be float32; convert it with .float()");
  }
}

void Recurrent::check_sequence(const std::string& op, const at::Tensor& sizes, int64_t rows) const {
  const char* remedy = "; let torch.nn.utils.rnn.pack_padded_sequence make the sequence";
  TORCH_CHECK(sizes.dim() == 1 && sizes.numel() > 0 && sizes.scalar_type() == at::kLong, "jitquant::", op,
              ": the batch sizes are ", sizes.scalar_type(), " ", sizes.sizes(),
              " and have to be int64, one ", "for each step", remedy);
  const at::Tensor contiguous = sizes.contiguous();
  const auto* batch = contiguous.const_data_ptr<int64_t>();
  int64_t total = 0;
  for (int64_t step = 0; step < sizes.numel(); ++step) {
    TORCH_CHECK(batch[step] > 0 && (step == 0 || batch[step] <= batch[step - 1]), "jitquant::", op,
                ": batch size ", step, " is ", batch[step], ", and none may be 0 or more than the one before",
                remedy);
    total += batch[step];
  }
  TORCH_CHECK(total == rows, "jitquant::", op, ": the batch sizes add up to ", total, " and the data has ",
              rows, " rows", remedy);
}

void Recurrent::accept(Inputs& inputs) const {
  const bool packed = inputs.size() == states() + 2;
  TORCH_CHECK((packed || inputs.size() == states() + 1) && inputs[0].dim() == (packed ? 2 : 3),
              "jitquant: a ", "kernel of kind '", kind(), "' takes an input and ", states(),
              " states; run it by the op of that name");
  check(name(), inputs);
  if (inputs[0].stride(-1) != 1) {
    inputs[0] = inputs[0].contiguous();
  }
  for (size_t i = 1; i < inputs.size(); ++i) {
    inputs[i] = inputs[i].contiguous();
  }
}

std::shared_ptr<Plan> Recurrent::make_plan(Tensors inputs) {
  auto plan = std::make_shared<Plan>();
  const int64_t rows = inputs[0].dim() == 3 ? inputs[0].size(0) * inputs[0].size(1) : inputs[0].size(0);
  for (size_t i = 0; i < matrices(); ++i) {
    plan->multiply_adds += rows * spec_.tensors[i].numel();
  }
  plan->implementation = Product(directions_[0]->hidden, inputs[1].size(1)).implementation();
  plan->compute_several = [this](Tensors given) { return compute(given); };
  return plan;
}

std::vector<at::Tensor> Recurrent::compute(Tensors inputs) const {
  const auto both = static_cast<size_t>(spec_.integer("directions"));
  const Sequence sequence = sequence_of(inputs);
  std::vector<at::Tensor> results{inputs[0]};  // of the layer before, in the end of the last
  for (size_t i = 1; i <= states(); ++i) {
    results.push_back(inputs[i].clone());
  }
  const int64_t features = units_ * static_cast<int64_t>(both);
  for (size_t first = 0; first < directions_.size(); first += both) {
    const bool last = first + both == directions_.size();
    const at::Tensor output =
        last ? empty_output(inputs[0], features) : at::empty({sequence.rows(), features}, at::kFloat);
    if (sequence.rows() > 0) {
      const int64_t width = directions_[first]->input.bytes();
      const RoundedRows input = rounded_input(Rows(results[0]), results[0].size(-1), width, sequence);
      for (size_t i = first; i < first + both; ++i) {
        const Rows rows(output, static_cast<int64_t>(i - first) * units_);
        Walk walk(*directions_[i], loop_, sequence, input, rows, state_of(results[1], i),
                  states() > 1 ? state_of(results[2], i) : nullptr, units_);
        if (i == first) {
          walk.forwards();
        } else {
          walk.backwards();
        }
      }
    }
    results[0] = output;
  }
  return results;
}

JITQUANT_KERNEL(Recurrent, "recurrent");

}  // namespace jitquant::runtime
