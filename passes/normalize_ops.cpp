// normalize_ops: one spelling for each op, so that no later pass needs a second row for it.
//
// Before: %y : Tensor = aten::_convolution(%x, %w, %b, %stride, %padding, %dilation, %false, ...)
// After:  %y : Tensor = aten::conv2d(%x, %w, %b, %stride, %padding, %dilation, %groups)
//
// Before: %t : Tensor = aten::t(%w)
//         %y : Tensor = aten::addmm(%b, %x, %t, %one, %one)
// After:  %y : Tensor = aten::linear(%x, %w, %b)
//
// Before: %g : Tensor = aten::reshape(%x, [n, groups, c, h, w])
//         %m : Tensor = aten::transpose(%g, %one, %two)
//         %y : Tensor = aten::reshape(%m, [n, groups * c, h, w])
// After:  %y : Tensor = aten::channel_shuffle(%x, %groups)
//
// Names that ATen has twice, such as multiply for mul, are libtorch's to bring to one.
//
// Left alone: products of two activations, and sums whose addend is not one bias for each output feature.

#include <functional>
#include <numeric>

#include <torch/csrc/jit/passes/normalize_ops.h>

#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/rewrite.h"
#include "csrc/walk.h"
#include "csrc/writes.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

// The spatial dimensions of a convolution: its weight says, or where that is computed its stride.
template <size_t dimensions>
bool has_spatial(const Context& context, const MatchedValues& values) {
  if (auto weight = context.static_tensor(values.at("w"))) {
    return weight->dim() == static_cast<int64_t>(dimensions) + 2;
  }
  auto stride = constant_of(values.at("stride"));
  return stride && stride->isIntList() && stride->toIntVector().size() == dimensions;
}

bool weight_is_matrix(const Context& context, const MatchedValues& values) {
  auto weight = context.static_tensor(values.at("w"));
  return weight && weight->dim() == 2 && weight->is_floating_point();
}

// `axis` is that of the output features.
bool bias_fits(const Context& context, const MatchedValues& values, int64_t axis) {
  auto bias = context.static_tensor(values.at("b"));
  auto weight = context.static_tensor(values.at("w"));
  return weight_is_matrix(context, values) && bias && bias->dim() == 1 &&
         bias->size(0) == weight->size(axis) && bias->scalar_type() == weight->scalar_type();
}

bool weight_is_matrix_and_bias_fits(const Context& context, const MatchedValues& values) {
  return bias_fits(context, values, 0);
}

bool plain_matrix(const Context& context, const MatchedValues& values) {
  return weight_is_matrix(context, values) && values.at("w")->node()->kind() != c10::aten::t;
}

bool plain_matrix_and_bias_fits(const Context& context, const MatchedValues& values) {
  return plain_matrix(context, values) && bias_fits(context, values, 1);
}

bool value_is_number(const Context&, const MatchedValues& values) {
  auto value = constant_of(values.at("value"));
  return value && value->isScalar();
}

bool size_is_list(const Context&, const MatchedValues& values) {
  return values.at("size")->type()->kind() == c10::TypeKind::ListType;
}

// Whether `value` is the size of `tensor` along that dimension.
bool is_size_of(const Value* value, const Value* tensor, int64_t dimension) {
  const Node* node = value->node();
  int64_t asked = -1;
  if (node->kind() == c10::prim::ListUnpack) {
    asked = static_cast<int64_t>(value->offset());
    node = node->input()->node();
  } else if (node->kind() == c10::aten::size && node->inputs().size() == 2) {
    auto constant = constant_of(node->input(1));
    asked = constant ? constant->toInt() : -1;
  }
  return node->kind() == c10::aten::size && node->input(0) == tensor && asked == dimension;
}

// Whether the two reshapes around the transpose keep all but the channels. How many channels they say need
// not be looked at: there is one number only with which they run.
bool only_channels_move(const Context&, const MatchedValues& values) {
  const Value* x = values.at("x");
  auto groups = constant_of(values.at("groups"));
  return groups && groups->isInt() && groups->toInt() > 0 && is_size_of(values.at("n"), x, 0) &&
         is_size_of(values.at("h"), x, 2) && is_size_of(values.at("w"), x, 3) &&
         is_size_of(values.at("n1"), x, 0) && is_size_of(values.at("h1"), x, 2) &&
         is_size_of(values.at("w1"), x, 3);
}

// On quantized tensors the three copy value by value, and give a layout that the next convolution copies
// again.
RewriteRule channel_shuffle(bool contiguous) {
  const std::string inputs = std::string("graph(%x, %n, %groups, %c, %h, %w, %one, %two, ") +
                             (contiguous ? "%format, " : "") + "%n1, %c1, %h1, %w1):\n";
  return {.name = contiguous ? "channel shuffle with a copy" : "channel shuffle",
          .pattern = inputs +
                     "  %size : int[] = prim::ListConstruct(%n, %groups, %c, %h, %w)\n"
                     "  %grouped = aten::reshape(%x, %size)\n"
                     "  %moved = aten::transpose(%grouped, %one, %two)\n" +
                     (contiguous ? "  %copy = aten::contiguous(%moved, %format)\n" : "") +
                     "  %size1 : int[] = prim::ListConstruct(%n1, %c1, %h1, %w1)\n"
                     "  %y = aten::reshape(" +
                     (contiguous ? "%copy" : "%moved") + ", %size1)\n  return (%y)",
          .replacement = inputs + "  %y = aten::channel_shuffle(%x, %groups)\n  return (%y)",
          .where = {{"one", 1}, {"two", 2}},
          .condition = only_channels_move};
}

RewriteRule convolution(const std::string& op, bool transposed, const std::string& tail_names,
                        const std::string& replacement,
                        bool (*condition)(const Context&, const MatchedValues&)) {
  const std::string inputs =
      "graph(%x, %w, %b, %stride, %padding, %dilation, %transposed, %output_padding, %groups" + tail_names +
      "):\n";
  return {.name = op + " to " + replacement,
          .pattern = inputs + "  %y = " + op +
                     "(%x, %w, %b, %stride, %padding, %dilation, %transposed, %output_padding, %groups" +
                     tail_names + ")\n  return (%y)",
          .replacement = inputs + "  %y = " + replacement +
                         (transposed ? "(%x, %w, %b, %stride, %padding, %output_padding, %groups, %dilation)"
                                     : "(%x, %w, %b, %stride, %padding, %dilation, %groups)") +
                         "\n  return (%y)",
          .where = {{"transposed", transposed}},
          .condition = condition};
}

std::vector<RewriteRule> make_rules() {
  std::vector<RewriteRule> rules;
  const std::vector<std::pair<std::string, std::string>> spellings{
      {"aten::_convolution", ", %benchmark, %deterministic, %cudnn, %tf32"},
      {"aten::_convolution", ", %benchmark, %deterministic, %cudnn"},
      {"aten::convolution", ""}};
  for (const auto& [op, tail] : spellings) {
    rules.push_back(convolution(op, false, tail, "aten::conv1d", has_spatial<1>));
    rules.push_back(convolution(op, false, tail, "aten::conv2d", has_spatial<2>));
    rules.push_back(convolution(op, false, tail, "aten::conv3d", has_spatial<3>));
    rules.push_back(convolution(op, true, tail, "aten::conv_transpose1d", has_spatial<1>));
    rules.push_back(convolution(op, true, tail, "aten::conv_transpose2d", has_spatial<2>));
    rules.push_back(convolution(op, true, tail, "aten::conv_transpose3d", has_spatial<3>));
  }
  const std::vector<RewriteRule> others{
      {.name = "product of two matrices",
       .pattern = "graph(%x, %z):\n  %y = aten::mm(%x, %z)\n  return (%y)",
       .replacement = "graph(%x, %z):\n  %y = aten::matmul(%x, %z)\n  return (%y)"},
      {.name = "addmm with a transposed weight",
       .pattern = "graph(%x, %w, %b, %beta, %alpha):\n  %t = aten::t(%w)\n"
                  "  %y = aten::addmm(%b, %x, %t, %beta, %alpha)\n  return (%y)",
       .replacement = "graph(%x, %w, %b, %beta, %alpha):\n  %y = aten::linear(%x, %w, %b)\n  return (%y)",
       .where = {{"beta", 1}, {"alpha", 1}},
       .condition = weight_is_matrix_and_bias_fits},
      {.name = "addmm with a weight",
       .pattern =
           "graph(%x, %w, %b, %beta, %alpha):\n  %y = aten::addmm(%b, %x, %w, %beta, %alpha)\n  return (%y)",
       .replacement = "graph(%x, %w, %b, %beta, %alpha):\n  %t = aten::t(%w)\n"
                      "  %y = aten::linear(%x, %t, %b)\n  return (%y)",
       .where = {{"beta", 1}, {"alpha", 1}},
       .condition = plain_matrix_and_bias_fits},
      {.name = "matmul with a transposed weight, plus a bias",
       .pattern = "graph(%x, %w, %b, %alpha):\n  %t = aten::t(%w)\n  %m = aten::matmul(%x, %t)\n"
                  "  %y = aten::add(%m, %b, %alpha)\n  return (%y)",
       .replacement = "graph(%x, %w, %b, %alpha):\n  %y = aten::linear(%x, %w, %b)\n  return (%y)",
       .where = {{"alpha", 1}},
       .condition = weight_is_matrix_and_bias_fits},
      {.name = "matmul with a weight, plus a bias",
       .pattern = "graph(%x, %w, %b, %alpha):\n  %m = aten::matmul(%x, %w)\n"
                  "  %y = aten::add(%m, %b, %alpha)\n  return (%y)",
       .replacement = "graph(%x, %w, %b, %alpha):\n  %t = aten::t(%w)\n"
                      "  %y = aten::linear(%x, %t, %b)\n  return (%y)",
       .where = {{"alpha", 1}},
       .condition = plain_matrix_and_bias_fits},
      {.name = "matmul with a transposed weight",
       .pattern = "graph(%x, %w):\n  %t = aten::t(%w)\n  %y = aten::matmul(%x, %t)\n  return (%y)",
       .replacement = "graph(%x, %w):\n  %none : NoneType = prim::Constant()\n"
                      "  %y = aten::linear(%x, %w, %none)\n  return (%y)",
       .condition = weight_is_matrix},
      {.name = "matmul with a weight",
       .pattern = "graph(%x, %w):\n  %y = aten::matmul(%x, %w)\n  return (%y)",
       .replacement = "graph(%x, %w):\n  %none : NoneType = prim::Constant()\n  %t = aten::t(%w)\n"
                      "  %y = aten::linear(%x, %t, %none)\n  return (%y)",
       .condition = plain_matrix},
      {.name = "product of two batches of matrices",
       .pattern = "graph(%x, %z):\n  %y = aten::bmm(%x, %z)\n  return (%y)",
       .replacement = "graph(%x, %z):\n  %y = aten::matmul(%x, %z)\n  return (%y)"},
      {.name = "transpose by another name",
       .pattern = "graph(%x, %a, %b):\n  %y = aten::swapaxes(%x, %a, %b)\n  return (%y)",
       .replacement = "graph(%x, %a, %b):\n  %y = aten::transpose(%x, %a, %b)\n  return (%y)"},
      {.name = "transpose by a third name",
       .pattern = "graph(%x, %a, %b):\n  %y = aten::swapdims(%x, %a, %b)\n  return (%y)",
       .replacement = "graph(%x, %a, %b):\n  %y = aten::transpose(%x, %a, %b)\n  return (%y)"},
      {.name = "movedim by another name",
       .pattern = "graph(%x, %a, %b):\n  %y = aten::moveaxis(%x, %a, %b)\n  return (%y)",
       .replacement = "graph(%x, %a, %b):\n  %y = aten::movedim(%x, %a, %b)\n  return (%y)"},
      {.name = "split by sizes",
       .pattern = "graph(%x, %size, %dim):\n  %y = aten::split(%x, %size, %dim)\n  return (%y)",
       .replacement = "graph(%x, %size, %dim):\n  %y : Tensor[] = aten::split_with_sizes(%x, %size, %dim)\n"
                      "  return (%y)",
       .condition = size_is_list},
      {.name = "relu6",
       .pattern = "graph(%x):\n  %y = aten::relu6(%x)\n  return (%y)",
       .replacement = "graph(%x):\n  %low : int = prim::Constant[value=0]()\n"
                      "  %high : int = prim::Constant[value=6]()\n"
                      "  %y = aten::hardtanh(%x, %low, %high)\n  return (%y)"},
      {.name = "clamp_min at zero",
       .pattern = "graph(%x, %low):\n  %y = aten::clamp_min(%x, %low)\n  return (%y)",
       .replacement = "graph(%x, %low):\n  %y = aten::relu(%x)\n  return (%y)",
       .where = {{"low", 0}}},
      {.name = "clamp at zero",
       .pattern = "graph(%x, %low, %high):\n  %y = aten::clamp(%x, %low, %high)\n  return (%y)",
       .replacement = "graph(%x, %low, %high):\n  %y = aten::relu(%x)\n  return (%y)",
       .where = {{"low", 0}, {"high", c10::IValue()}}},
      {.name = "constant padding without a value",
       .pattern = "graph(%x, %pad, %mode, %value):\n  %y = aten::pad(%x, %pad, %mode, %value)\n  return (%y)",
       .replacement = "graph(%x, %pad, %mode, %value):\n  %zero : int = prim::Constant[value=0]()\n"
                      "  %y = aten::constant_pad_nd(%x, %pad, %zero)\n  return (%y)",
       .where = {{"mode", "constant"}, {"value", c10::IValue()}}},
      {.name = "constant padding",
       .pattern = "graph(%x, %pad, %mode, %value):\n  %y = aten::pad(%x, %pad, %mode, %value)\n  return (%y)",
       .replacement = "graph(%x, %pad, %mode, %value):\n  %y = aten::constant_pad_nd(%x, %pad, %value)\n"
                      "  return (%y)",
       .where = {{"mode", "constant"}},
       .condition = value_is_number},
  };
  rules.insert(rules.end(), others.begin(), others.end());
  // What was a view is a reshape by now.
  rules.push_back(channel_shuffle(true));
  rules.push_back(channel_shuffle(false));
  return rules;
}

// The convolution op for that many spatial dimensions.
std::string convolution_op(int64_t dimensions) { return "aten::conv" + std::to_string(dimensions) + "d"; }

bool has_padding_by_name(const Node* node) {
  const bool scripted = is_op(node, {"aten::conv1d", "aten::conv2d", "aten::conv3d"});
  return is_op(node, "aten::_convolution_mode") || (scripted && node->schema().overload_name() == "padding");
}

// conv2d(..., padding="same" | "valid") becomes conv2d with numbers; what "same" pads more at the end goes
// before it.
bool spell_out_padding(const Context& context, Node* node) {
  if (!has_padding_by_name(node)) {
    return false;
  }
  auto mode = constant_of(node->namedInput("padding"));
  auto dilation = constant_of(node->namedInput("dilation"));
  auto weight = context.static_tensor(node->namedInput("weight"));
  if (!mode || !dilation || !weight) {
    return false;
  }
  const size_t dimensions = static_cast<size_t>(weight->dim()) - 2;
  std::vector<int64_t> padding(dimensions, 0);
  std::vector<int64_t> more(2 * dimensions,
                            0);  // from the last dimension to the first, begin and end of each
  bool uneven = false;
  const auto steps = dilation->toIntVector();
  for (size_t i = 0; mode->toStringRef() == "same" && i < dimensions; ++i) {
    const int64_t total = steps[steps.size() == 1 ? 0 : i] * (weight->size(static_cast<int64_t>(i) + 2) - 1);
    padding[i] = total / 2;
    more[2 * (dimensions - 1 - i) + 1] = total % 2;
    uneven = uneven || total % 2 != 0;
  }
  Value* input = node->namedInput("input");
  if (uneven) {
    input = insert_op(node, node, "aten::constant_pad_nd", {input, constant(node, more), constant(node, 0)});
  }
  Value* output =
      insert_op(node, node, convolution_op(weight->dim() - 2),
                {input, node->namedInput("weight"), node->namedInput("bias"), node->namedInput("stride"),
                 constant(node, padding), node->namedInput("dilation"), node->namedInput("groups")});
  node->output()->replaceAllUsesWith(output);
  node->destroy();
  return true;
}

// A tensor without dimensions that stays what it is, as a number.
std::optional<c10::Scalar> number_of(const Context& context, const Value* value) {
  auto data = context.static_tensor(value);
  // A trace writes a number of Python's as such a double.
  const bool is_number =
      data && data->dim() == 0 &&
      (data->scalar_type() == at::kFloat || data->scalar_type() == at::kLong ||
       (data->scalar_type() == at::kDouble && data->unsafeGetTensorImpl()->is_wrapped_number()));
  return is_number ? std::optional(data->item()) : std::nullopt;
}

// Arithmetic with a tensor that holds one number becomes arithmetic with that number.
bool take_number(const Context& context, Node* node) {
  const bool known = is_op(node, {"aten::add", "aten::sub", "aten::mul", "aten::div"}) &&
                     node->schema().overload_name() == "Tensor";
  if (!known) {
    return false;
  }
  const auto right = number_of(context, node->input(1));
  const auto left = right ? std::nullopt : number_of(context, node->input(0));
  const bool has_alpha = node->inputs().size() > 2;
  const bool plain = !has_alpha || constant_of(node->input(2)) == c10::IValue(1);
  if ((!right && !left) || (left && (node->kind() == c10::aten::div || !plain))) {
    return false;
  }
  std::string op = node->kind().toQualString();
  if (left && node->kind() == c10::aten::sub) {
    op = "aten::rsub";
  }
  std::vector<Value*> inputs{node->input(right ? 0 : 1), constant(node, right ? *right : *left)};
  if (has_alpha) {
    inputs.push_back(node->input(2));
  }
  node->output()->replaceAllUsesWith(insert_op(node, node, op, inputs));
  node->destroy();
  return true;
}

// A script has a number minus a tensor as the number added to what is negated.
bool spell_out_difference(Node* node) {
  const bool adds_number = node->kind() == c10::aten::add && node->schema().overload_name() == "Scalar" &&
                           constant_of(node->namedInput("alpha")) == c10::IValue(1);
  Node* negation = adds_number ? node->input(0)->node() : nullptr;
  if (negation == nullptr || negation->kind() != c10::aten::neg || only_user(negation->output()) != node) {
    return false;
  }
  node->output()->replaceAllUsesWith(
      insert_op(node, node, "aten::rsub", {negation->input(), node->input(1), node->input(2)}));
  node->destroy();
  return true;
}

// What is a view of a float tensor need not be one of an integer tensor, whose layout is another. Rules leave
// a view alone whose list of sizes is changed; its name may change all the same.
bool spell_out_view(const Writes& writes, Node* node) {
  const bool by_list = is_op(node, "aten::view") && node->input(1)->type()->kind() == c10::TypeKind::ListType;
  if (!by_list || writes.touch(node->input(0)) || writes.touch(node->output())) {
    return false;
  }
  node->output()->replaceAllUsesWith(
      insert_op(node, node, "aten::reshape", {node->input(0), node->input(1)}));
  node->destroy();
  return true;
}

// Padding by reflection has an op for each number of dimensions.
bool spell_out_reflection(Node* node) {
  auto mode = is_op(node, "aten::pad") ? constant_of(node->namedInput("mode")) : std::nullopt;
  auto sides = mode && mode->toStringRef() == "reflect" ? constant_of(node->namedInput("pad")) : std::nullopt;
  const size_t dimensions = sides ? sides->toIntVector().size() / 2 : 0;
  if (dimensions != 1 && dimensions != 2) {
    return false;
  }
  node->output()->replaceAllUsesWith(insert_op(node, node,
                                               "aten::reflection_pad" + std::to_string(dimensions) + "d",
                                               {node->namedInput("self"), node->namedInput("pad")}));
  node->destroy();
  return true;
}

// One slope for all channels is that of a leaky relu.
bool spell_out_single_slope(const Context& context, Node* node) {
  auto slope = is_op(node, "aten::prelu") ? context.static_tensor(node->namedInput("weight")) : std::nullopt;
  if (!slope || slope->numel() != 1) {
    return false;
  }
  node->output()->replaceAllUsesWith(insert_op(
      node, node, "aten::leaky_relu", {node->namedInput("self"), constant(node, slope->item().toDouble())}));
  node->destroy();
  return true;
}

// The largest of all that lies in the trailing dimensions.
bool spell_out_adaptive_max_pool(Node* node) {
  const bool pools =
      is_op(node, {"aten::adaptive_max_pool1d", "aten::adaptive_max_pool2d", "aten::adaptive_max_pool3d"});
  auto asked = pools && node->outputs()[1]->uses().empty() ? constant_of(node->input(1)) : std::nullopt;
  if (!asked || !asked->isIntList()) {
    return false;
  }
  const auto sizes = asked->toIntVector();
  if (!std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size == 1; })) {
    return false;
  }
  std::vector<int64_t> dimensions;
  for (int64_t i = node->kind().toUnqualString()[std::string("adaptive_max_pool").size()] - '0'; i > 0; --i) {
    dimensions.push_back(-i);
  }
  node->outputs()[0]->replaceAllUsesWith(insert_op(
      node, node, "aten::amax", {node->input(0), constant(node, dimensions), constant(node, true)}));
  node->destroy();
  return true;
}

// stack is cat of tensors with a dimension more.
bool spell_out_stack(Node* node) {
  // What something else takes too, something else may change.
  if (!is_op(node, "aten::stack") || node->input(0)->node()->kind() != c10::prim::ListConstruct ||
      node->input(0)->uses().size() != 1) {
    return false;
  }
  std::vector<Value*> parts;
  for (Value* part : node->input(0)->node()->inputs()) {
    parts.push_back(insert_op(node, node, "aten::unsqueeze", {part, node->input(1)}));
  }
  Node* list = node->owningGraph()->createList(c10::TensorType::get(), parts)->insertBefore(node);
  node->output()->replaceAllUsesWith(insert_op(node, node, "aten::cat", {list->output(), node->input(1)}));
  node->destroy();
  return true;
}

// Tracing and scripting have done that already; a graph that came another way may have such names. libtorch
// puts a new node in the place of each.
int64_t take_first_names(const std::shared_ptr<torch::jit::Graph>& graph) {
  auto kinds = [&] {
    std::vector<c10::Symbol> found;
    for_each_node(graph->block(), [&](Node* node) { found.push_back(node->kind()); });
    return found;
  };
  const auto before = kinds();
  torch::jit::NormalizeOps(graph);
  const auto after = kinds();
  return std::inner_product(before.begin(), before.end(), after.begin(), int64_t{0}, std::plus<>(),
                            std::not_equal_to<>());
}

}  // namespace

int64_t NormalizeOps(Context& context) {
  static const std::vector<RewriteRule> rules = make_rules();
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    count += take_first_names(graph);
    const Writes writes(context, graph);
    for_each_node(graph->block(), [&](Node* node) { count += spell_out_view(writes, node); });
    count += apply_rules(context, graph, rules);
    for_each_node(graph->block(), [&](Node* node) {
      count += spell_out_padding(context, node) || take_number(context, node) || spell_out_difference(node) ||
               spell_out_reflection(node) || spell_out_single_slope(context, node) ||
               spell_out_adaptive_max_pool(node) || spell_out_stack(node);
    });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(NormalizeOps, "normalize_ops", "One spelling for each op.");

}  // namespace jitquant
