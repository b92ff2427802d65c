// The `quantized` target: ATen's quantized tensors and quantized:: ops, all of which stock torch has.
#include <algorithm>

#include <ATen/ATen.h>

#include "csrc/dynamic.h"
#include "csrc/graph_edit.h"
#include "csrc/onednn_faults.h"
#include "csrc/quantization_params.h"
#include "csrc/target.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

constexpr const char* kNoRightKernel = "no kernel of this engine computes it right";

// Convolutions that go to fbgemm's depthwise kernels when the file is loaded. Those are wrong or slow for
// 8-bit values: with "same" padding their 16-bit sums saturate on every CPU (an error of 44 % on all-ones
// input), without it they are two hundred times slower than oneDNN's.
bool goes_to_fbgemm_depthwise(const std::string& engine, int64_t groups, bool depthwise) {
  constexpr int64_t most_groups_x86_gives_onednn = 100;
  if (engine == "x86") {
    return groups > most_groups_x86_gives_onednn;
  }
  return engine == "fbgemm" && depthwise;
}

bool has_wrong_kernel(const Context& context, const Node* conv) {
  const OpRow* row = find_row(conv);
  if (row == nullptr || !row->weight() || !conv->schema().argumentIndexWithName("groups")) {
    return false;
  }
  auto groups = constant_of(conv->namedInput("groups"));
  auto weight = float_weight_of(context, conv);
  return groups && weight &&
         goes_to_fbgemm_depthwise(context.options.engine, groups->toInt(), weight->size(1) == 1);
}

// Whether what `value` becomes is used as plain integers: by padding, or by a convolution whose own kernel is
// wrong. What becomes part of this op is passed over: a clamp, a hardswish (see fuse_activation), quantize
// and dequantize.
bool feeds_plain_integers(const Context& context, Value* value) {
  for (Node* user = only_user(value); user != nullptr; user = only_user(user->output())) {
    const OpRow* row = find_row(user);
    const bool passed_over = user->kind() == c10::aten::quantize_per_tensor ||
                             user->kind() == c10::aten::dequantize || user->kind() == c10::aten::hardswish ||
                             (row != nullptr && row->bounds);
    if (!passed_over) {
      return user->kind() == c10::aten::constant_pad_nd || has_wrong_kernel(context, user);
    }
  }
  return false;
}

bool takes_plain_integers(const Context& context, const Lowering& lowering) {
  // oneDNN's 3-d convolution has no relu, and not all of its opaque weights can be turned back into plain
  // ones, which saving needs: such a convolution stays float where its own kernel is wrong.
  if (lowering.node->kind() == c10::aten::conv3d) {
    return false;
  }
  const bool has_onednn = context.options.engine != "qnnpack";  // qnnpack is for processors without oneDNN
  if (!has_onednn || lowering.names.count("$weight_scales") == 0 ||
      lowering.names.count("$input_scale") == 0 || is_wrong_in_onednn(context, lowering)) {
    return false;
  }
  // What leads to one does too, since between plain integers nothing has to be copied.
  return has_wrong_kernel(context, lowering.node) || feeds_plain_integers(context, lowering.node->output());
}

bool has_right_kernel(const Context& context, const Lowering& lowering) {
  const auto& engine = context.options.engine;
  const bool lacks_it = (engine == "qnnpack" && lowering.node->kind() == c10::aten::conv3d) ||
                        (engine == "onednn" && lowering.names.count("$weight_scales") == 0);
  const bool is_onednn = engine == "onednn" || engine == "x86";
  return !lacks_it && !has_wrong_kernel(context, lowering.node) &&
         !(is_onednn && is_wrong_in_onednn(context, lowering));
}

std::string conv_recipe(const std::string& dimensions, const std::string& suffix) {
  const std::string conv = "quantized::conv" + dimensions + "d";
  return "packed = " + conv + "_prepack(weight, bias, stride, padding, dilation, groups);" + conv + suffix +
         "(input, packed, $scale, $zero_point)";
}

std::string plain_conv_recipe(const std::string& activation) {
  return "plain = aten::int_repr(input);"
         "integers = aten::int_repr(weight);"
         "packed = onednn::qconv_prepack(integers, $weight_scales, $input_scale, $input_zero_point, stride, "
         "padding,"
         "  dilation, groups, None);"
         "result = onednn::qconv_pointwise(plain, $input_scale, $input_zero_point, packed, $weight_scales,"
         "  $weight_zero_points, bias, stride, padding, dilation, groups, $scale, $zero_point, uint8, '" +
         activation +
         "', [], 'none');"
         "aten::_make_per_tensor_quantized_tensor(result, $scale, $zero_point)";
}

void add_conv(std::vector<IntegerForm>& forms, const std::string& dimensions) {
  forms.push_back({.op = "aten::conv" + dimensions + "d",
                   .recipe = plain_conv_recipe("none"),
                   .relu_recipe = plain_conv_recipe("relu"),
                   .suits = takes_plain_integers,
                   .reason = "fbgemm's depthwise kernels saturate or are slow"});
  forms.push_back({.op = "aten::conv" + dimensions + "d",
                   .recipe = conv_recipe(dimensions, ""),
                   .relu_recipe = conv_recipe(dimensions, "_relu"),
                   .suits = has_right_kernel,
                   .otherwise = kNoRightKernel});
}

// Whether an op leaves one row for each sample.
bool leaves_one_row(const Node* node) {
  if (node->kind() == c10::aten::flatten) {
    return constant_of(node->namedInput("start_dim")) == c10::IValue(1) &&
           constant_of(node->namedInput("end_dim")) == c10::IValue(-1);
  }
  // Of a linear, fuse_quantized decided so before.
  return is_op(node, {"aten::mean", "aten::select", "aten::adaptive_avg_pool2d", "quantized::linear",
                      "quantized::linear_relu"});
}

// Whether an op computes something of one tensor and nothing else.
bool takes_one_tensor(const Node* node) {
  const auto* schema = node->maybeSchema();
  return schema != nullptr && node->input(0)->type()->isSubtypeOf(*c10::TensorType::get()) &&
         std::count_if(schema->arguments().begin(), schema->arguments().end(), [](const auto& argument) {
           return argument.type()->isSubtypeOf(*c10::TensorType::get());
         }) == 1;
}

bool has_few_rows(const Lowering& lowering) {
  const Node* node = lowering.names.at("input")->node();
  while (!node->inputs().empty() && !leaves_one_row(node) && takes_one_tensor(node)) {
    node = node->input(0)->node();
  }
  return !node->inputs().empty() && leaves_one_row(node);
}

// fbgemm needs two to three times as long as oneDNN for the product of two matrices, but less for that of a
// few rows, where what is around the kernel counts.
bool is_faster_on_plain_integers(const Context& context, const Lowering& lowering) {
  return context.options.engine == "x86" && !has_few_rows(lowering);
}

std::string plain_linear_recipe(const std::string& activation) {
  return "plain = aten::int_repr(input);"
         "integers = aten::int_repr(weight);"
         "packed = onednn::qlinear_prepack(integers, None);"
         "result = onednn::qlinear_pointwise(plain, $input_scale, $input_zero_point, packed, $weight_scales,"
         "  $weight_zero_points, bias, $scale, $zero_point, uint8, '" +
         activation +
         "', [], 'none');"
         "aten::_make_per_tensor_quantized_tensor(result, $scale, $zero_point)";
}

bool covers_strides(const Node* conv, const at::Tensor& weight) {
  auto stride = constant_of(conv->namedInput("stride"));
  if (!stride) {
    return false;
  }
  const auto strides = stride->toIntVector();
  return std::equal(strides.begin(), strides.end(), weight.sizes().begin() + 2,
                    [](int64_t step, int64_t size) { return step <= size; });
}

// ATen packs transposed weights with one scale only. Its oneDNN kernel is wrong where there are not as many
// output channels as input channels, or where strides pass over what the kernel reaches, and takes no output
// padding; which kernel a file gets, x86 decides.
bool has_right_transposed_kernel(const Context& context, const Lowering& lowering) {
  const auto& engine = context.options.engine;
  const Node* weight = lowering.names.at("weight")->node();
  auto more = constant_of(lowering.node->namedInput("output_padding"));
  auto groups = constant_of(lowering.node->namedInput("groups"));
  if (!is_quantize(weight) || !more || !groups) {
    return false;
  }
  const auto sizes = more->toIntVector();
  const bool is_padded = std::any_of(sizes.begin(), sizes.end(), [](int64_t size) { return size != 0; });
  if (engine == "fbgemm" || (engine == "x86" && (is_padded || groups->toInt() > 100))) {
    return true;  // fbgemm's
  }
  if (engine == "qnnpack") {
    return !is_op(lowering.node, "aten::conv_transpose3d");
  }
  auto data = context.static_tensor(weight->input(0));
  return !is_padded && data && data->size(0) == data->size(1) * groups->toInt() &&
         covers_strides(lowering.node, *data);
}

void add_transposed_conv(std::vector<IntegerForm>& forms, const std::string& dimensions) {
  const std::string conv = "quantized::conv_transpose" + dimensions + "d";
  const std::string overload = dimensions == "1" ? "" : ".input";
  forms.push_back({.op = "aten::conv_transpose" + dimensions + "d" + overload,
                   .recipe = "packed = " + conv +
                             "_prepack(weight, bias, stride, padding, output_padding, dilation, groups);" +
                             conv + "(input, packed, $scale, $zero_point)",
                   .suits = has_right_transposed_kernel,
                   .otherwise = kNoRightKernel,
                   .per_tensor_weight = true});
}

// What ATen only has for plain integers, or takes the integer of zero for.
void add_moves(std::vector<IntegerForm>& forms) {
  forms.push_back(
      {.op = "aten::masked_fill.Scalar",
       .recipe = "plain = aten::int_repr(self); filled = aten::masked_fill(plain, mask, $input_zero_point);"
                 "aten::_make_per_tensor_quantized_tensor(filled, $input_scale, $input_zero_point)",
       .suits = fills_with_zero,
       .otherwise = kOtherThanZero,
       .ignores = {"value"}});
  for (const auto& [op, arguments] : {std::pair<std::string, std::string>("aten::gather", "dim, index"),
                                      std::pair<std::string, std::string>("aten::roll", "shifts, dims"),
                                      std::pair<std::string, std::string>("aten::amax", "dim, keepdim"),
                                      std::pair<std::string, std::string>("aten::amin", "dim, keepdim")}) {
    forms.push_back(
        {.op = op,
         .recipe = "plain = aten::int_repr(self); moved = " + op + "(plain, " + arguments +
                   ");"
                   "aten::_make_per_tensor_quantized_tensor(moved, $input_scale, $input_zero_point)"});
  }
}

// ATen's raises where it takes away dimensions of one pixel that lie in channels-last.
bool takes_dimensions_away(const Context& /*context*/, const Lowering& lowering) {
  auto keeps = constant_of(lowering.node->namedInput("keepdim"));
  auto dim = constant_of(lowering.node->namedInput("dim"));
  return keeps && !keeps->toBool() && dim && dim->isIntList();
}

void add_mean(std::vector<IntegerForm>& forms) {
  forms.push_back({.op = "aten::mean.dim",
                   .recipe = "kept = aten::mean(self, dim, True); aten::squeeze(kept, dim)",
                   .suits = takes_dimensions_away});
  forms.push_back({.op = "aten::mean.dim", .recipe = "aten::mean(self, dim, keepdim)"});
}

// The sums before a layer norm in a transformer have outliers: rounding them costs more than it gains.
bool is_not_behind_a_sum(const Context& /*context*/, const Lowering& lowering) {
  const Node* node = lowering.names.at("input")->node();
  while (is_quantize(node) || node->kind() == c10::aten::dequantize) {
    node = node->input(0)->node();
  }
  return !is_op(node, {"aten::add", "quantized::add", "quantized::add_relu"});
}

bool uses_own_statistics(const Context& /*context*/, const Lowering& lowering) {
  auto own = constant_of(lowering.node->namedInput("use_input_stats"));
  return own && own->toBool();
}

bool has_number(const Context& /*context*/, const Lowering& lowering) {
  return lowering.names.count("$number") != 0;
}

// ATen's takes no batch norm without weight and bias.
bool has_weights_and_statistics(const Context& context, const Lowering& lowering) {
  return has_statistics(context, lowering) && context.static_tensor(lowering.node->namedInput("weight")) &&
         context.static_tensor(lowering.node->namedInput("bias"));
}

void add_norms(std::vector<IntegerForm>& forms) {
  const std::string batch_norm = "(input, weight, bias, running_mean, running_var, eps, $scale, $zero_point)";
  forms.push_back({.op = "aten::batch_norm",
                   .recipe = "quantized::batch_norm" + batch_norm,
                   .relu_recipe = "quantized::batch_norm_relu" + batch_norm,
                   .suits = has_weights_and_statistics,
                   .otherwise = "it has no weights, or computes statistics as in training",
                   .only_among_integers = true,
                   .ignores = {"training", "momentum", "cudnn_enabled"}});
  forms.push_back(
      {.op = "aten::layer_norm",
       .recipe = "quantized::layer_norm(input, normalized_shape, weight, bias, eps, $scale, $zero_point)",
       .suits = is_not_behind_a_sum,
       .otherwise = "the sums before it have outliers that 8 bits do not hold",
       .only_among_integers = true,
       .ignores = {"cudnn_enable"}});
  forms.push_back(
      {.op = "aten::group_norm",
       .recipe = "quantized::group_norm(input, num_groups, weight, bias, eps, $scale, $zero_point)",
       .only_among_integers = true,
       .ignores = {"cudnn_enabled"}});
  forms.push_back(
      {.op = "aten::instance_norm",
       .recipe = "quantized::instance_norm(input, weight, bias, eps, $scale, $zero_point)",
       .suits = uses_own_statistics,
       .otherwise = "it uses running statistics",
       .only_among_integers = true,
       .ignores = {"running_mean", "running_var", "use_input_stats", "momentum", "cudnn_enabled"}});
}

void add_arithmetic_with_numbers(std::vector<IntegerForm>& forms) {
  const std::string sum = "quantized::add(self, $number, $scale, $zero_point)";
  const std::string product = "quantized::mul(self, $number, $scale, $zero_point)";
  for (const auto& [op, recipe] :
       {std::pair<std::string, std::string>("add", sum), std::pair<std::string, std::string>("sub", sum),
        std::pair<std::string, std::string>(
            "rsub",
            "minus = quantized::mul_scalar(self, -1); quantized::add(minus, $number, $scale, $zero_point)"),
        std::pair<std::string, std::string>("mul", product),
        std::pair<std::string, std::string>("div", product)}) {
    forms.push_back({.op = "aten::" + op + ".Scalar",
                     .recipe = recipe,
                     .suits = has_number,
                     .otherwise = "the number is not a finite constant",
                     .only_among_integers = true,
                     .ignores = {"other"}});
  }
}

std::vector<IntegerForm> make_forms() {
  std::vector<IntegerForm> forms = embedding_forms();
  for (const char* dimensions : {"1", "2", "3"}) {
    add_conv(forms, dimensions);
    add_transposed_conv(forms, dimensions);
  }
  add_moves(forms);
  add_mean(forms);
  add_norms(forms);
  add_arithmetic_with_numbers(forms);
  const std::string pack_linear = "packed = quantized::linear_prepack(weight, bias);";
  forms.insert(
      forms.end(),
      {{.op = "aten::linear",
        .recipe = plain_linear_recipe("none"),
        .relu_recipe = plain_linear_recipe("relu"),
        .suits = is_faster_on_plain_integers,
        .reason = "fbgemm's products of matrices are slow"},
       {.op = "aten::linear",
        .recipe = pack_linear + "quantized::linear(input, packed, $scale, $zero_point)",
        .relu_recipe = pack_linear + "quantized::linear_relu(input, packed, $scale, $zero_point)"},
       {.op = "aten::add.Tensor",
        .recipe = "quantized::add(self, other, $scale, $zero_point)",
        .relu_recipe = "quantized::add_relu(self, other, $scale, $zero_point)"},
       {.op = "aten::mul.Tensor",
        .recipe = "quantized::mul(self, other, $scale, $zero_point)",
        .relu_recipe = "quantized::mul_relu(self, other, $scale, $zero_point)"},
       {.op = "aten::sub.Tensor",
        .recipe =
            "minus = quantized::mul_scalar(other, -1); quantized::add(self, minus, $scale, $zero_point)",
        .relu_recipe = "minus = quantized::mul_scalar(other, -1); quantized::add_relu(self, minus, $scale, "
                       "$zero_point)"},
       {.op = "aten::cat", .recipe = "quantized::cat(tensors, dim, $scale, $zero_point)"},
       {.op = "aten::hardswish", .recipe = "quantized::hardswish(self, $scale, $zero_point)"},
       {.op = "aten::leaky_relu",
        .recipe = "quantized::leaky_relu(self, negative_slope, False, $scale, $zero_point)"},
       {.op = "aten::elu", .recipe = "quantized::elu(self, $scale, $zero_point, alpha, scale, input_scale)"},
       {.op = "aten::celu", .recipe = "quantized::celu(self, $scale, $zero_point, alpha)"},
       {.op = "aten::prelu",
        .recipe = "quantized::prelu(self, $slopes, $scale, $zero_point)",
        .suits = has_known_slopes,
        .otherwise = "its slopes are computed",
        .ignores = {"weight"}},
       {.op = "aten::softmax.int",
        .recipe = "quantized::softmax(self, dim, $scale, $zero_point)",
        .only_among_integers = true},
       {.op = "aten::sigmoid", .recipe = "quantized::sigmoid(self, $scale, $zero_point)"},
       // ATen's integer hardsigmoid and tanh have the fixed parameters of the op table built in.
       {.op = "aten::hardsigmoid", .recipe = "aten::hardsigmoid(self)"},
       {.op = "aten::tanh", .recipe = "aten::tanh(self)"},
       // ATen pads quantized tensors twenty times slower than plain ones.
       {.op = "aten::constant_pad_nd",
        .recipe = "plain = aten::int_repr(self);"
                  "padded = aten::constant_pad_nd(plain, pad, $input_zero_point);"
                  "aten::_make_per_tensor_quantized_tensor(padded, $input_scale, $input_zero_point)"}});
  return forms;
}

bool takes_integer_weight(const Context& /*context*/, const Lowering& lowering) {
  return lowering.names.count("$reduce_range") != 0;
}

const std::vector<IntegerForm>& forms() {
  static const std::vector<IntegerForm> made = make_forms();
  return made;
}

// Whether ATen's kernel for quantized tensors is right on that engine.
bool runs(const std::string& engine, const Node* node) {
  // qnnpack has no kernel for the first, and wrong ones for the others.
  static const std::vector<c10::Symbol> not_on_qnnpack{c10::aten::max_pool3d, c10::aten::hardtanh,
                                                       c10::aten::clamp, c10::aten::avg_pool2d};
  return engine != "qnnpack" ||
         std::find(not_on_qnnpack.begin(), not_on_qnnpack.end(), node->kind()) == not_on_qnnpack.end();
}

}  // namespace

const std::vector<IntegerForm>& quantized_dynamic_forms() {
  static const std::vector<IntegerForm> made = [] {
    const std::string pack = "packed = quantized::linear_prepack(weight, bias);";
    std::vector<IntegerForm> forms = dynamic_convs();
    forms.push_back({.op = "aten::linear",
                     .recipe = pack + "quantized::linear_dynamic(input, packed, $reduce_range)",
                     .relu_recipe = pack + "quantized::linear_relu_dynamic(input, packed, $reduce_range)",
                     .suits = takes_integer_weight});
    forms.push_back(half_linear());
    forms.push_back(
        {.op = "aten::linear",
         .recipe = "product = aten::linear($input16, $weight16, $bias16); aten::to(product, float32)",
         .suits = takes_bfloat16,
         .becomes = "aten::linear"});
    forms.push_back(weight_only_linear());
    return forms;
  }();
  return made;
}

const Target& quantized_target() {
  static const Target target{
      .name = "quantized",
      .plain_integers = false,
      .forms = forms,
      .prepack_ops = {"jitquant::pack_rows", "jitquant::pack_rows_4bit", "jitquant::pack_row_scales",
                      "jitquant::dequantize_rows", "quantized::embedding_bag_prepack",
                      "quantized::conv1d_prepack", "quantized::conv2d_prepack", "quantized::conv3d_prepack",
                      "quantized::conv_transpose1d_prepack", "quantized::conv_transpose2d_prepack",
                      "quantized::conv_transpose3d_prepack", "quantized::linear_prepack",
                      "quantized::linear_prepack_fp16", "quantized::make_quantized_cell_params_dynamic",
                      "quantized::make_quantized_cell_params_fp16", "onednn::qconv_prepack",
                      "onednn::qlinear_prepack"},
      .runs = runs};
  return target;
}

}  // namespace jitquant
