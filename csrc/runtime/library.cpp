// What the op library registers with libtorch: the class of kernels, ops that make them, and ops that run
// them. Loading the library is all it takes.
#include <ATen/ATen.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include "csrc/runtime/equation.h"
#include "csrc/runtime/kernel.h"
#include "csrc/runtime/recurrent.h"

namespace jitquant::runtime {

namespace {

using KernelPtr = c10::intrusive_ptr<Kernel>;
using Ints = std::vector<int64_t>;
using MaybeTensor = std::optional<at::Tensor>;

Spec new_spec(const std::string& kernel, const std::string& activation) {
  Spec spec;
  spec.set("kernel", kernel);
  if (!activation.empty()) {
    spec.set("activation", activation);
  }
  return spec;
}

void set_output(Spec& spec, std::optional<double> scale, int64_t zero_point) {
  if (scale) {
    spec.set("output", QParams{*scale, zero_point});
  }
}

void set_other(Spec& spec, const std::string& sum, std::optional<double> scale, int64_t zero_point) {
  if (!sum.empty()) {
    spec.set("sum", sum);
    spec.set("other", QParams{scale.value_or(1), zero_point});
  }
}

void set_weight(Spec& spec, const at::Tensor& weight, const at::Tensor& scales, const MaybeTensor& bias) {
  TORCH_CHECK(weight.scalar_type() == at::kChar, "jitquant: a weight has to be int8, and this one is ",
              weight.scalar_type());
  spec.tensors = {weight.contiguous(), scales};
  if (bias) {
    spec.tensors.push_back(*bias);
  }
}

KernelPtr conv_prepack(const at::Tensor& weight, const at::Tensor& weight_scales, const MaybeTensor& bias,
                       const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups,
                       double input_scale, int64_t input_zero_point, std::optional<double> scale,
                       int64_t zero_point, const std::string& activation, const std::string& sum,
                       std::optional<double> other_scale, int64_t other_zero_point,
                       const std::optional<Ints>& output_padding) {
  Spec spec = new_spec("conv", activation);
  set_weight(spec, weight, weight_scales, bias);
  spec.set("stride", stride);
  spec.set("padding", padding);
  spec.set("dilation", dilation);
  spec.set("groups", Ints{groups});
  spec.set("input", QParams{input_scale, input_zero_point});
  set_output(spec, scale, zero_point);
  set_other(spec, sum, other_scale, other_zero_point);
  if (output_padding) {
    spec.set("output_padding", *output_padding);
    // A transposed weight is [input, output of one group, ...]: the groups share the scales.
    if (weight_scales.numel() > 1 && weight_scales.numel() == weight.size(1)) {
      spec.tensors[1] = spec.tensors[1].repeat({groups});
    }
  }
  const int64_t channels = output_padding ? weight.size(1) * groups : weight.size(0);
  TORCH_CHECK(spec.tensors[1].numel() == 1 || spec.tensors[1].numel() == channels,
              "jitquant::conv_prepack: there are ", spec.tensors[1].numel(), " scales of the weight for ",
              channels, " output channels; give one, or one for each");
  return make_kernel(std::move(spec));
}

KernelPtr linear_prepack(const at::Tensor& weight, const at::Tensor& weight_scales, const MaybeTensor& bias,
                         double input_scale, int64_t input_zero_point, std::optional<double> scale,
                         int64_t zero_point, const std::string& activation, const std::string& sum,
                         std::optional<double> other_scale, int64_t other_zero_point,
                         const MaybeTensor& factors) {
  Spec spec = new_spec("linear", activation);
  set_weight(spec, weight, weight_scales, bias);
  if (factors) {
    TORCH_CHECK(scale && sum.empty() && factors->numel() == weight.size(0),
                "jitquant::linear_prepack: factors need a scale of the result, no sum, and to be ",
                weight.size(0), " of them, one for each channel of the result; there are ", factors->numel());
    spec.tensors.resize(3, at::zeros({weight.size(0)}));
    spec.tensors[2] = bias ? *bias : at::zeros({weight.size(0)});
    spec.tensors.push_back(factors->contiguous());
  }
  spec.set("input", QParams{input_scale, input_zero_point});
  set_output(spec, scale, zero_point);
  set_other(spec, sum, other_scale, other_zero_point);
  return make_kernel(std::move(spec));
}

KernelPtr linear_dynamic_prepack(const at::Tensor& weight, const at::Tensor& weight_scales,
                                 const MaybeTensor& bias, const std::string& activation,
                                 const std::string& sum) {
  Spec spec = new_spec("linear_dynamic", activation);
  set_weight(spec, weight, weight_scales, bias);
  set_other(spec, sum, std::nullopt, 0);
  return make_kernel(std::move(spec));
}

KernelPtr linear_bfloat16_prepack(const at::Tensor& weight, const MaybeTensor& bias,
                                  const std::string& activation, const std::string& sum) {
  TORCH_CHECK(weight.scalar_type() == at::kBFloat16,
              "jitquant::linear_bfloat16_prepack: the weight has to be bfloat16, and this one is ",
              weight.scalar_type());
  Spec spec = new_spec("linear_bfloat16", activation);
  spec.tensors = {weight.contiguous()};
  if (bias) {
    spec.tensors.push_back(*bias);
  }
  set_other(spec, sum, std::nullopt, 0);
  return make_kernel(std::move(spec));
}

KernelPtr binary_prepack(const std::string& kind, double input_scale, int64_t input_zero_point,
                         double other_scale, int64_t other_zero_point, std::optional<double> scale,
                         int64_t zero_point, const std::string& activation) {
  // A difference is a sum with what has a negative scale.
  const bool subtracts = kind == "sub";
  Spec spec = new_spec(subtracts ? "add" : kind, activation);
  spec.set("input", QParams{input_scale, input_zero_point});
  spec.set("other", QParams{subtracts ? -other_scale : other_scale, other_zero_point});
  set_output(spec, scale, zero_point);
  return make_kernel(std::move(spec));
}

// The statistics become a factor and a shift for each channel.
KernelPtr batch_norm_prepack(const MaybeTensor& weight, const MaybeTensor& bias, const at::Tensor& mean,
                             const at::Tensor& variance, double epsilon, double input_scale,
                             int64_t input_zero_point, std::optional<double> scale, int64_t zero_point,
                             const std::string& activation) {
  Spec spec = new_spec("batch_norm", activation);
  spec.set("input", QParams{input_scale, input_zero_point});
  set_output(spec, scale, zero_point);
  at::Tensor factor = (variance.to(at::kDouble) + epsilon).rsqrt();
  factor = weight ? factor * *weight : factor;
  const at::Tensor shift = (bias ? bias->to(at::kDouble) : at::zeros_like(factor)) - mean * factor;
  spec.tensors = {factor, shift};
  return make_kernel(std::move(spec));
}

KernelPtr prelu_prepack(const at::Tensor& slopes, double input_scale, int64_t input_zero_point, double scale,
                        int64_t zero_point) {
  Spec spec = new_spec("prelu", "");
  spec.set("input", QParams{input_scale, input_zero_point});
  set_output(spec, scale, zero_point);
  spec.tensors = {slopes};
  return make_kernel(std::move(spec));
}

KernelPtr activation_prepack(double input_scale, int64_t input_zero_point, std::optional<double> scale,
                             int64_t zero_point, const std::string& activation) {
  Spec spec = new_spec("activation", activation);
  spec.set("input", QParams{input_scale, input_zero_point});
  set_output(spec, scale, zero_point);
  return make_kernel(std::move(spec));
}

KernelPtr pool_prepack(const std::string& kind, const Ints& window, const Ints& stride, const Ints& padding,
                       const std::optional<Ints>& dilation, bool ceil_mode, bool count_include_pad) {
  Spec spec = new_spec("pool", "");
  const size_t rank = window.size();
  auto for_each_axis = [&](const Ints& given) { return given.size() == 1 ? Ints(rank, given[0]) : given; };
  spec.set("kind", kind);
  spec.set("window", window);
  spec.set("stride", stride.empty() ? window : for_each_axis(stride));
  spec.set("padding", for_each_axis(padding));
  spec.set("dilation", for_each_axis(dilation.value_or(Ints{1})));
  if (ceil_mode) {
    spec.set("ceil_mode", "1");
  }
  if (count_include_pad) {
    spec.set("count_include_pad", "1");
  }
  return make_kernel(std::move(spec));
}

KernelPtr adaptive_avg_pool_prepack(const Ints& size) {
  Spec spec = new_spec("adaptive_avg_pool", "");
  spec.set("size", size);
  return make_kernel(std::move(spec));
}

KernelPtr mean_prepack(const Ints& dim, bool keepdim, double input_scale, int64_t input_zero_point,
                       std::optional<double> scale, int64_t zero_point) {
  Spec spec = new_spec("mean", "");
  spec.set("input", QParams{input_scale, input_zero_point});
  set_output(spec, scale, zero_point);
  spec.set("dim", dim);
  if (keepdim) {
    spec.set("keepdim", "1");
  }
  return make_kernel(std::move(spec));
}

KernelPtr quantize_prepack(double scale, int64_t zero_point, const std::optional<Ints>& padding,
                           const MaybeTensor& factors) {
  Spec spec = new_spec("quantize", "");
  if (factors) {
    TORCH_CHECK(!padding,
                "jitquant::quantize_prepack: an image is padded without factors; give None for one");
    spec.tensors = {factors->contiguous()};
  }
  if (padding) {
    TORCH_CHECK(padding->size() == 4, "jitquant::quantize_prepack: the padding is ", *padding,
                " and has to be four numbers (top, left, bottom, right)");
    spec.set("padding", *padding);
  }
  spec.set("output", QParams{scale, zero_point});
  return make_kernel(std::move(spec));
}

KernelPtr dequantize_prepack(double scale, int64_t zero_point) {
  Spec spec = new_spec("dequantize", "");
  spec.set("input", QParams{scale, zero_point});
  return make_kernel(std::move(spec));
}

KernelPtr cat_prepack(int64_t dim, const std::vector<double>& input_scales, const Ints& input_zero_points,
                      std::optional<double> scale, int64_t zero_point) {
  TORCH_CHECK(input_scales.size() == input_zero_points.size() && !input_scales.empty() && scale,
              "jitquant::cat_prepack: each input needs a scale and a zero point, and so does the result");
  Spec spec = new_spec("cat", "");
  spec.set("dim", Ints{dim});
  spec.set("inputs", Ints{static_cast<int64_t>(input_scales.size())});
  for (size_t i = 0; i < input_scales.size(); ++i) {
    spec.set("input" + std::to_string(i), QParams{input_scales[i], input_zero_points[i]});
  }
  set_output(spec, scale, zero_point);
  return make_kernel(std::move(spec));
}

KernelPtr einsum_prepack(const std::string& equation, const std::vector<double>& input_scales,
                         const Ints& input_zero_points, std::optional<double> scale, int64_t zero_point,
                         const std::string& activation) {
  TORCH_CHECK(input_scales.size() == 2 && input_zero_points.size() == 2,
              "jitquant::einsum_prepack: there have to be two operands, each with a scale and a zero point");
  Spec spec = new_spec("einsum", activation);
  spec.set("equation", without_spaces(equation));
  spec.set("input", QParams{input_scales[0], input_zero_points[0]});
  spec.set("other", QParams{input_scales[1], input_zero_points[1]});
  set_output(spec, scale, zero_point);
  return make_kernel(std::move(spec));
}

KernelPtr channel_shuffle_prepack(int64_t groups) {
  Spec spec = new_spec("channel_shuffle", "");
  spec.set("groups", Ints{groups});
  return make_kernel(std::move(spec));
}

KernelPtr softmax_prepack(int64_t dim, std::optional<double> input_scale, int64_t input_zero_point,
                          std::optional<double> scale, int64_t zero_point) {
  Spec spec = new_spec("softmax", "");
  spec.set("dim", Ints{dim});
  spec.set("input", QParams{input_scale.value_or(1), input_zero_point});
  set_output(spec, scale, zero_point);
  return make_kernel(std::move(spec));
}

KernelPtr layer_norm_prepack(const Ints& shape, const MaybeTensor& weight, const MaybeTensor& bias,
                             double epsilon, std::optional<double> input_scale, int64_t input_zero_point,
                             std::optional<double> scale, int64_t zero_point) {
  Spec spec = new_spec("layer_norm", "");
  spec.set("shape", shape);
  spec.set("epsilon", epsilon);
  spec.set("input", QParams{input_scale.value_or(1), input_zero_point});
  set_output(spec, scale, zero_point);
  spec.tensors = {weight ? weight->contiguous() : at::ones(shape),
                  bias ? bias->contiguous() : at::zeros(shape)};
  return make_kernel(std::move(spec));
}

at::Tensor run_one(const at::Tensor& input, const KernelPtr& kernel) { return kernel->run({input}); }

at::Tensor run_two(const at::Tensor& input, const at::Tensor& other, const KernelPtr& kernel) {
  return kernel->run({input, other});
}

at::Tensor run_list(const std::vector<at::Tensor>& tensors, const KernelPtr& kernel) {
  return kernel->run(tensors);
}

}  // namespace

TORCH_LIBRARY(jitquant, library) {
  using State = std::tuple<std::string, std::vector<at::Tensor>>;
  library.class_<Kernel>("Kernel")
      .def("spec", [](const KernelPtr& self) { return self->spec().text(); })
      .def("implementation", [](const KernelPtr& self) { return self->implementation(); })
      .def("multiply_adds", [](const KernelPtr& self) { return self->multiply_adds(); })
      .def_pickle([](const KernelPtr& self) { return State(self->spec().text(), self->spec().tensors); },
                  [](const State& state) {
                    Spec spec(std::get<0>(state));
                    spec.tensors = std::get<1>(state);
                    return make_kernel(std::move(spec));
                  });
  // Schemas in full: from an inferred one the compiler would have to fear side effects.
  const std::string made = " -> __torch__.torch.classes.jitquant.Kernel";
  const std::string sum =
      "float? scale, int zero_point, str activation, str sum, float? other_scale, int other_zero_point";
  const std::string weight = "(Tensor weight, Tensor weight_scales, Tensor? bias, ";
  library.def(("conv_prepack" + weight +
               "int[] stride, int[] padding, int[] dilation, int groups, float input_scale,"
               " int input_zero_point, " +
               sum + ", int[]? output_padding)" + made)
                  .c_str(),
              conv_prepack);
  library.def(("linear_prepack" + weight + "float input_scale, int input_zero_point, " + sum +
               ", Tensor? factors=None)" + made)
                  .c_str(),
              linear_prepack);
  library.def(("linear_dynamic_prepack" + weight + "str activation, str sum)" + made).c_str(),
              linear_dynamic_prepack);
  library.def(
      ("linear_bfloat16_prepack(Tensor weight, Tensor? bias, str activation, str sum)" + made).c_str(),
      linear_bfloat16_prepack);
  library.def(("binary_prepack(str kind, float input_scale, int input_zero_point, float other_scale,"
               " int other_zero_point, float? scale, int zero_point, str activation)" +
               made)
                  .c_str(),
              binary_prepack);
  library.def(("batch_norm_prepack(Tensor? weight, Tensor? bias, Tensor mean, Tensor variance, float epsilon,"
               " float input_scale, int input_zero_point, float? scale, int zero_point, str activation)" +
               made)
                  .c_str(),
              batch_norm_prepack);
  library.def(("prelu_prepack(Tensor slopes, float input_scale, int input_zero_point, float scale,"
               " int zero_point)" +
               made)
                  .c_str(),
              prelu_prepack);
  library.def(("activation_prepack(float input_scale, int input_zero_point, float? scale, int zero_point,"
               " str activation)" +
               made)
                  .c_str(),
              activation_prepack);
  library.def(("pool_prepack(str kind, int[] window, int[] stride, int[] padding, int[]? dilation,"
               " bool ceil_mode, bool count_include_pad)" +
               made)
                  .c_str(),
              pool_prepack);
  library.def(("adaptive_avg_pool_prepack(int[] size)" + made).c_str(), adaptive_avg_pool_prepack);
  library.def(("mean_prepack(int[] dim, bool keepdim, float input_scale, int input_zero_point, float? scale, "
               "int zero_point)" +
               made)
                  .c_str(),
              mean_prepack);
  library.def(("quantize_prepack(float scale, int zero_point, int[]? padding=None,"
               " Tensor? factors=None)" +
               made)
                  .c_str(),
              quantize_prepack);
  library.def(("dequantize_prepack(float scale, int zero_point)" + made).c_str(), dequantize_prepack);
  library.def(
      ("cat_prepack(int dim, float[] input_scales, int[] input_zero_points, float? scale, int zero_point)" +
       made)
          .c_str(),
      cat_prepack);
  library.def(("einsum_prepack(str equation, float[] input_scales, int[] input_zero_points, float? scale,"
               " int zero_point, str activation)" +
               made)
                  .c_str(),
              einsum_prepack);
  library.def(("channel_shuffle_prepack(int groups)" + made).c_str(), channel_shuffle_prepack);
  library.def(
      ("softmax_prepack(int dim, float? input_scale, int input_zero_point, float? scale, int zero_point)" +
       made)
          .c_str(),
      softmax_prepack);
  library.def(
      ("layer_norm_prepack(int[] shape, Tensor? weight, Tensor? bias, float epsilon, float? input_scale,"
       " int input_zero_point, float? scale, int zero_point)" +
       made)
          .c_str(),
      layer_norm_prepack);
  const std::string kernel = "__torch__.torch.classes.jitquant.Kernel kernel) -> Tensor";
  for (const char* name :
       {"conv1d", "conv2d", "conv3d", "conv_transpose", "linear", "activation", "pool", "adaptive_avg_pool",
        "mean", "quantize", "dequantize", "channel_shuffle", "softmax", "layer_norm", "batch_norm", "prelu",
        "linear_dynamic", "linear_bfloat16"}) {
    library.def((std::string(name) + "(Tensor input, " + kernel).c_str(), run_one);
  }
  for (const char* name : {"conv1d_add", "conv2d_add", "conv3d_add", "linear_add", "linear_dynamic_add",
                           "linear_bfloat16_add", "add", "mul", "matmul"}) {
    library.def((std::string(name) + "(Tensor input, Tensor other, " + kernel).c_str(), run_two);
  }
  for (const char* name : {"conv1d_add_", "conv2d_add_", "conv3d_add_", "linear_add_", "linear_dynamic_add_",
                           "linear_bfloat16_add_"}) {
    library.def(
        (std::string(name) +
         "(Tensor input, Tensor(a!) other, __torch__.torch.classes.jitquant.Kernel kernel) -> Tensor(a!)")
            .c_str(),
        run_two);
  }
  for (const char* name : {"cat", "einsum"}) {
    library.def((std::string(name) + "(Tensor[] tensors, " + kernel).c_str(), run_list);
  }
  register_recurrent(library);
}

}  // namespace jitquant::runtime
