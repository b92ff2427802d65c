// The `native` target: plain uint8 tensors and jitquant's own ops, which hold oneDNN primitives.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include <ATen/ATen.h>

#include "csrc/dynamic.h"
#include "csrc/graph_edit.h"
#include "csrc/runtime/equation.h"
#include "csrc/target.h"

namespace jitquant {

namespace {

using torch::jit::Node;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

std::optional<double> scalar(const Node* node, const char* name) {
  auto value = constant_of(node->namedInput(name));
  if (!value) {
    return std::nullopt;
  }
  if (value->isTensor()) {
    const auto tensor = value->toTensor();
    return tensor.numel() == 1 ? std::optional(tensor.item().toDouble()) : std::nullopt;
  }
  return value->isScalar() ? std::optional(value->toScalar().toDouble()) : std::nullopt;
}

// The words for ops without arguments of their own.
const std::map<std::string, std::string>& plain_words() {
  static const std::map<std::string, std::string> words{
      {"aten::relu", "clip,0,inf"}, {"aten::hardswish", "hardswish"},     {"aten::silu", "swish"},
      {"aten::sigmoid", "sigmoid"}, {"aten::hardsigmoid", "hardsigmoid"}, {"aten::tanh", "tanh"},
  };
  return words;
}

bool is_number(const Node* node, const char* name) { return scalar(node, name).has_value(); }

std::optional<std::string> linear_words(const Node* node) {
  auto linear = linear_of(node);
  return linear ? std::optional("linear," + number(linear->first) + "," + number(linear->second))
                : std::nullopt;
}

std::string conv_recipe(const std::string& run, const std::string& output_padding) {
  return "integers = aten::int_repr(weight);"
         "kernel = jitquant::conv_prepack(integers, $weight_scales, bias, stride, padding, dilation, groups,"
         " $input_scale, $input_zero_point, $scale, $zero_point, $activation, $sum, $other_scale,"
         " $other_zero_point, " +
         output_padding + ");" + run;
}

std::string linear_recipe(const std::string& run) {
  return "integers = aten::int_repr(weight);"
         "kernel = jitquant::linear_prepack(integers, $weight_scales, bias, $input_scale, $input_zero_point,"
         " $scale, $zero_point, $activation, $sum, $other_scale, $other_zero_point,"
         " $factors);" +
         run;
}

std::string binary_recipe(const std::string& name) {
  return "kernel = jitquant::binary_prepack('" + name +
         "', $self_scale, $self_zero_point, $other_scale, $other_zero_point, $scale, $zero_point, "
         "$activation);"
         "jitquant::" +
         (name == "sub" ? "add" : name) + "(self, other, kernel)";
}

IntegerForm binary_form(const std::string& op, const std::string& name) {
  return {.op = op, .recipe = binary_recipe(name), .takes_activation = true, .gives_float = true};
}

// Zeros that an average counts in the padding are not the integers' zero.
bool pads_with_zero(const Context& context, const Lowering& lowering) {
  auto padding = constant_of(lowering.node->namedInput("padding"));
  auto counted = constant_of(lowering.node->namedInput("count_include_pad"));
  auto zero_point = context.static_value(lowering.names.at("$input_zero_point"));
  if (!padding || !counted) {
    return false;
  }
  const auto sizes = padding->toIntVector();
  const bool unpadded = std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size == 0; });
  return unpadded || !counted->toBool() || (zero_point && zero_point->toInt() == 0);
}

bool names_dimensions(const Context& /*context*/, const Lowering& lowering) {
  auto dim = constant_of(lowering.node->namedInput("dim"));
  return dim && dim->isIntList() && dim->toIntVector().size() > 0;
}

// Two operands that are integers of one list, as the equation has them.
bool multiplies_matrices(const Context& /*context*/, const Lowering& lowering) {
  auto equation = constant_of(lowering.node->namedInput("equation"));
  return equation && runtime::parse_equation(equation->toStringRef()) &&
         lowering.node->namedInput("tensors")->node()->inputs().size() == 2;
}

bool gives_known_activation(const Context& /*context*/, const Lowering& lowering) {
  return activation_words(lowering.node).has_value();
}

void add_pools(std::vector<IntegerForm>& forms, const std::string& dimensions) {
  forms.push_back({.op = "aten::max_pool" + dimensions + "d",
                   .recipe = "kernel = jitquant::pool_prepack('max', kernel_size, stride, padding, dilation,"
                             " ceil_mode, False); jitquant::pool(self, kernel)"});
  forms.push_back({.op = "aten::avg_pool" + dimensions + "d",
                   .recipe = "kernel = jitquant::pool_prepack('avg', kernel_size, stride, padding, None,"
                             " ceil_mode, count_include_pad); jitquant::pool(self, kernel)",
                   .suits = pads_with_zero,
                   .otherwise = "it counts zeros in the padding, and zero is another integer than 0"});
  forms.push_back({.op = "aten::adaptive_avg_pool" + dimensions + "d",
                   .recipe = "kernel = jitquant::adaptive_avg_pool_prepack(output_size);"
                             "jitquant::adaptive_avg_pool(self, kernel)"});
}

void add_convs(std::vector<IntegerForm>& forms, const std::string& dimensions) {
  const std::string conv = "jitquant::conv" + dimensions + "d";
  forms.push_back({.op = "aten::conv" + dimensions + "d",
                   .recipe = conv_recipe(conv + "(input, kernel)", "None"),
                   .sum_recipe = conv_recipe(conv + "_add(input, $other, kernel)", "None"),
                   .takes_activation = true,
                   .gives_float = true});
  const std::string overload = dimensions == "1" ? "" : ".input";
  forms.push_back({.op = "aten::conv_transpose" + dimensions + "d" + overload,
                   .recipe = conv_recipe("jitquant::conv_transpose(input, kernel)", "output_padding"),
                   .takes_activation = true,
                   .gives_float = true});
}

std::vector<IntegerForm> make_forms() {
  std::vector<IntegerForm> forms = embedding_forms();
  for (const char* dimensions : {"1", "2", "3"}) {
    add_convs(forms, dimensions);
    add_pools(forms, dimensions);
  }
  forms.push_back({.op = "aten::linear",
                   .recipe = linear_recipe("jitquant::linear(input, kernel)"),
                   .sum_recipe = linear_recipe("jitquant::linear_add(input, $other, kernel)"),
                   .takes_activation = true,
                   .gives_float = true,
                   .takes_factors = true});
  forms.push_back(binary_form("aten::add.Tensor", "add"));
  forms.push_back(binary_form("aten::sub.Tensor", "sub"));
  forms.push_back(binary_form("aten::mul.Tensor", "mul"));
  forms.push_back(binary_form("aten::matmul", "matmul"));
  forms.push_back(
      {.op = "aten::einsum",
       .recipe = "kernel = jitquant::einsum_prepack(equation, $tensors_scales, $tensors_zero_points,"
                 " $scale, $zero_point, $activation); jitquant::einsum(tensors, kernel)",
       .suits = multiplies_matrices,
       .otherwise = "its equation is not a constant, or not a product of two operands that sums over"
                    " letters of both; spell every dimension out, each letter once in an operand",
       .takes_activation = true,
       .gives_float = true,
       .ignores = {"path"}});
  forms.push_back({.op = "aten::cat",
                   .recipe =
                       "kernel = jitquant::cat_prepack(dim, $tensors_scales, $tensors_zero_points, $scale,"
                       " $zero_point); jitquant::cat(tensors, kernel)"});
  forms.push_back({.op = "aten::channel_shuffle",
                   .recipe = "kernel = jitquant::channel_shuffle_prepack(groups);"
                             "jitquant::channel_shuffle(self, kernel)"});
  forms.push_back({.op = "aten::mean.dim",
                   .recipe =
                       "kernel = jitquant::mean_prepack(dim, keepdim, $self_scale, $self_zero_point, $scale,"
                       " $zero_point); jitquant::mean(self, kernel)",
                   .suits = names_dimensions,
                   .otherwise = "its dimensions are not constants",
                   .gives_float = true});
  forms.push_back({.op = "aten::softmax.int",
                   .recipe = "kernel = jitquant::softmax_prepack(dim, $self_scale, $self_zero_point, $scale,"
                             " $zero_point); jitquant::softmax(self, kernel)",
                   .takes_float = true});
  forms.push_back({.op = "aten::layer_norm",
                   .recipe = "kernel = jitquant::layer_norm_prepack(normalized_shape, weight, bias, eps,"
                             " $input_scale, $input_zero_point, $scale, $zero_point);"
                             "jitquant::layer_norm(input, kernel)",
                   .takes_float = true,
                   .gives_float = true});
  for (const char* op : {"relu", "hardtanh", "clamp", "hardswish", "silu", "sigmoid", "hardsigmoid", "tanh",
                         "gelu", "leaky_relu", "elu", "celu"}) {
    forms.push_back({.op = std::string("aten::") + op,
                     .recipe = "kernel = jitquant::activation_prepack($self_scale, $self_zero_point, $scale,"
                               " $zero_point, $activation); jitquant::activation(self, kernel)",
                     .suits = gives_known_activation,
                     .otherwise = "a parameter of it is not a constant, or one that the kernel does not have",
                     .is_activation = true});
  }
  for (const char* op : {"add", "sub", "rsub", "mul", "div"}) {
    forms.push_back({.op = std::string("aten::") + op + ".Scalar",
                     .recipe = "kernel = jitquant::activation_prepack($self_scale, $self_zero_point, $scale,"
                               " $zero_point, $activation); jitquant::activation(self, kernel)",
                     .suits = gives_known_activation,
                     .otherwise = "a parameter of it is not a constant, or one that the kernel does not have",
                     .is_activation = true,
                     .only_among_integers = true});
  }
  forms.push_back({.op = "aten::prelu",
                   .recipe = "kernel = jitquant::prelu_prepack(weight, $self_scale, $self_zero_point, $scale,"
                             " $zero_point); jitquant::prelu(self, kernel)",
                   .suits = has_known_slopes,
                   .otherwise = "its slopes are computed"});
  forms.push_back({.op = "aten::masked_fill.Scalar",
                   .recipe = "aten::masked_fill(self, mask, $input_zero_point)",
                   .suits = fills_with_zero,
                   .otherwise = kOtherThanZero,
                   .ignores = {"value"}});
  forms.push_back({.op = "aten::batch_norm",
                   .recipe =
                       "kernel = jitquant::batch_norm_prepack(weight, bias, running_mean, running_var, eps,"
                       " $input_scale, $input_zero_point, $scale, $zero_point, $activation);"
                       "jitquant::batch_norm(input, kernel)",
                   .suits = has_statistics,
                   .otherwise = "it computes statistics, as in training",
                   .takes_activation = true,
                   .gives_float = true,
                   .only_among_integers = true,
                   .ignores = {"training", "momentum", "cudnn_enabled"}});
  // ATen resamples bytes as they are: oneDNN rounds the nearest neighbour otherwise and knows no aligned
  // corners.
  for (const auto& [name, scales] :
       {std::pair<std::string, std::string>("aten::upsample_nearest2d", ""),
        std::pair<std::string, std::string>("aten::upsample_nearest3d", "scales_d, ")}) {
    forms.push_back({.op = name + ".vec", .recipe = name + "(input, output_size, scale_factors)"});
    forms.push_back({.op = name, .recipe = name + "(self, output_size, " + scales + "scales_h, scales_w)"});
  }
  forms.push_back({.op = "aten::upsample_bilinear2d.vec",
                   .recipe = "aten::upsample_bilinear2d(input, output_size, align_corners, scale_factors)"});
  forms.push_back(
      {.op = "aten::upsample_bilinear2d",
       .recipe = "aten::upsample_bilinear2d(self, output_size, align_corners, scales_h, scales_w)"});
  forms.push_back(
      {.op = "aten::constant_pad_nd", .recipe = "aten::constant_pad_nd(self, pad, $input_zero_point)"});
  return forms;
}

std::string bfloat16_recipe(const std::string& run) {
  return "kernel = jitquant::linear_bfloat16_prepack($weight16, bias, $activation, $sum);" + run;
}

std::string dynamic_recipe(const std::string& run) {
  return "integers = aten::int_repr(weight);"
         "kernel = jitquant::linear_dynamic_prepack(integers, $weight_scales, bias, $activation, $sum);" +
         run;
}

bool takes_symmetric_weight(const Context& /*context*/, const Lowering& lowering) {
  return lowering.names.count("$reduce_range") != 0 && lowering.names.count("$weight_scales") != 0;
}

const std::vector<IntegerForm>& forms() {
  static const std::vector<IntegerForm> made = make_forms();
  return made;
}

bool runs(const std::string& /*engine*/, const Node* /*node*/) { return true; }

}  // namespace

const std::vector<IntegerForm>& native_dynamic_forms() {
  static const std::vector<IntegerForm> made = [] {
    std::vector<IntegerForm> forms = dynamic_convs();
    forms.push_back({.op = "aten::linear",
                     .recipe = dynamic_recipe("jitquant::linear_dynamic(input, kernel)"),
                     .sum_recipe = dynamic_recipe("jitquant::linear_dynamic_add(input, $other, kernel)"),
                     .suits = takes_symmetric_weight,
                     .otherwise = "its weight is not symmetric",
                     .takes_activation = true,
                     .gives_float = true});
    forms.push_back(half_linear());
    forms.push_back({.op = "aten::linear",
                     .recipe = bfloat16_recipe("jitquant::linear_bfloat16(input, kernel)"),
                     .sum_recipe = bfloat16_recipe("jitquant::linear_bfloat16_add(input, $other, kernel)"),
                     .suits = takes_bfloat16,
                     .takes_activation = true,
                     .gives_float = true});
    forms.push_back(weight_only_linear());
    return forms;
  }();
  return made;
}

std::optional<std::pair<double, double>> linear_of(const Node* node) {
  const auto* schema = node->maybeSchema();
  const bool known =
      schema != nullptr && is_op(node, {"aten::add", "aten::sub", "aten::rsub", "aten::mul", "aten::div"});
  if (!known || node->inputs().size() < 2 || !schema->argumentIndexWithName("other") ||
      schema->argumentIndexWithName("rounding_mode")) {
    return std::nullopt;
  }
  const double other = scalar(node, "other").value_or(std::numeric_limits<double>::quiet_NaN());
  const double alpha = schema->argumentIndexWithName("alpha") ? scalar(node, "alpha").value_or(other) : 1;
  std::pair<double, double> linear{1, 0};
  if (is_op(node, "aten::mul")) {
    linear.first = other;
  } else if (is_op(node, "aten::div")) {
    linear.first = 1 / other;
  } else if (is_op(node, "aten::rsub")) {
    linear = {-alpha, other};
  } else {
    linear.second = is_op(node, "aten::add") ? other * alpha : -other * alpha;
  }
  return std::isfinite(linear.first) && std::isfinite(linear.second) ? std::optional(linear) : std::nullopt;
}

std::optional<std::string> activation_words(const Node* node) {
  if (node->maybeSchema() == nullptr) {
    return std::nullopt;
  }
  auto known = plain_words().find(node->kind().toQualString());
  if (known != plain_words().end()) {
    return known->second;
  }
  const OpRow* row = find_row(node);
  if (row != nullptr && row->bounds) {
    auto bounds = clamp_bounds(node, *row);
    return bounds ? std::optional("clip," + number(bounds->first) + "," + number(bounds->second))
                  : std::nullopt;
  }
  if (node->kind() == c10::aten::leaky_relu && is_number(node, "negative_slope")) {
    return "leaky_relu," + number(*scalar(node, "negative_slope"));
  }
  if (node->kind() == c10::aten::elu && is_number(node, "alpha") && scalar(node, "scale") == 1.0 &&
      scalar(node, "input_scale") == 1.0) {
    return "elu," + number(*scalar(node, "alpha"));
  }
  if (node->kind() == c10::aten::celu && scalar(node, "alpha") == 1.0) {
    return "elu,1";
  }
  if (node->kind() == c10::aten::gelu) {
    auto approximate = constant_of(node->namedInput("approximate"));
    return !approximate
               ? std::nullopt
               : std::optional<std::string>(approximate->toStringRef() == "none" ? "gelu" : "gelu_tanh");
  }
  return linear_words(node);
}

const Target& native_target() {
  static const Target target{.name = "native",
                             .plain_integers = true,
                             .forms = forms,
                             .prepack_ops = {"jitquant::pack_rows",
                                             "jitquant::pack_rows_4bit",
                                             "jitquant::pack_row_scales",
                                             "jitquant::dequantize_rows",
                                             "quantized::embedding_bag_prepack",
                                             "onednn::qconv_prepack",
                                             "jitquant::conv_prepack",
                                             "jitquant::linear_prepack",
                                             "jitquant::linear_dynamic_prepack",
                                             "jitquant::recurrent_prepack",
                                             "quantized::linear_prepack",
                                             "jitquant::linear_bfloat16_prepack",
                                             "quantized::linear_prepack_fp16",
                                             "quantized::make_quantized_cell_params_dynamic",
                                             "quantized::make_quantized_cell_params_fp16",
                                             "jitquant::binary_prepack",
                                             "jitquant::activation_prepack",
                                             "jitquant::pool_prepack",
                                             "jitquant::adaptive_avg_pool_prepack",
                                             "jitquant::cat_prepack",
                                             "jitquant::mean_prepack",
                                             "jitquant::einsum_prepack",
                                             "jitquant::channel_shuffle_prepack",
                                             "jitquant::softmax_prepack",
                                             "jitquant::layer_norm_prepack",
                                             "jitquant::batch_norm_prepack",
                                             "jitquant::prelu_prepack",
                                             "jitquant::quantize_prepack",
                                             "jitquant::dequantize_prepack"},
                             .runs = runs};
  return target;
}

}  // namespace jitquant
