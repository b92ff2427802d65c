#include "csrc/target.h"

#include <algorithm>
#include <cctype>
#include <sstream>

#include "csrc/dynamic.h"
#include "csrc/error.h"
#include "csrc/graph_edit.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

struct Statement {
  std::string name;
  std::string op;
  std::vector<std::string> arguments;
};

std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(' ');
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    parts.push_back(trim(part));
  }
  return parts;
}

std::vector<Statement> parse_recipe(const std::string& recipe) {
  std::vector<Statement> statements;
  for (const auto& text : split(recipe, ';')) {
    const size_t open = text.find('(');
    const size_t equals = text.find('=');
    const bool named = equals != std::string::npos && equals < open;
    const size_t begin = named ? equals + 1 : 0;
    statements.push_back({named ? trim(text.substr(0, equals)) : "", trim(text.substr(begin, open - begin)),
                          split(text.substr(open + 1, text.rfind(')') - open - 1), ',')});
  }
  return statements;
}

Value* empty_scalar_list(Node* before) {
  torch::jit::WithInsertPoint guard(before);
  auto* graph = before->owningGraph();
  auto type = c10::OptionalType::create(c10::NumberType::get());
  return graph->insertNode(graph->createList(type, {}))->output();
}

Value* literal(const std::string& text, Node* before) {
  if (text == "None") {
    return constant(before, c10::IValue());
  }
  if (text == "True" || text == "False") {
    return constant(before, text == "True");
  }
  if (text == "uint8") {
    return constant(before, static_cast<int64_t>(at::kByte));
  }
  if (text == "quint8") {
    return constant(before, static_cast<int64_t>(at::kQUInt8));
  }
  if (text == "float32") {
    return constant(before, static_cast<int64_t>(at::kFloat));
  }
  if (text == "[]") {
    return empty_scalar_list(before);
  }
  if (text.front() == '\'') {
    return constant(before, text.substr(1, text.size() - 2));
  }
  if (text.find('.') != std::string::npos) {
    return constant(before, std::stod(text));
  }
  return constant(before, static_cast<int64_t>(std::stoll(text)));
}

bool same_value(const c10::IValue& left, const c10::IValue& right) {
  return left.isScalar() && right.isScalar() ? left.toScalar().toDouble() == right.toScalar().toDouble()
                                             : left == right;
}

// An argument that the recipe leaves out and that has not its default value, if there is one: then leaving it
// out would change the result.
std::optional<std::string> lacking_argument(const IntegerForm& form, const Node* node) {
  std::vector<std::string> used;
  for (const auto& statement : parse_recipe(form.recipe)) {
    used.insert(used.end(), statement.arguments.begin(), statement.arguments.end());
  }
  const auto& arguments = node->schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& name = arguments[i].name();
    if (std::find(used.begin(), used.end(), name) != used.end() ||
        std::find(form.ignores.begin(), form.ignores.end(), name) != form.ignores.end()) {
      continue;
    }
    auto given = constant_of(node->input(i));
    const auto& standard = arguments[i].default_value();
    if (!given || !standard || !same_value(*given, *standard)) {
      return name;
    }
  }
  return std::nullopt;
}

// Whether the recipe's $names, such as the parameters of an input, are known here.
bool names_are_known(const IntegerForm& form, const Lowering& lowering) {
  for (const auto& statement : parse_recipe(form.recipe)) {
    for (const auto& argument : statement.arguments) {
      if (argument.front() == '$' && lowering.names.count(argument) == 0) {
        return false;
      }
    }
  }
  return true;
}

// How a bag makes one row of several, as ATen numbers it.
enum class Bag : int64_t { Sum = 0, Mean = 1 };

// Of bags that leave no row out, and of which only the result is used.
template <Bag mode>
bool makes_one_row(const Node* bag) {
  auto given = constant_of(bag->namedInput("mode"));
  auto padding = bag->schema().argumentIndexWithName("padding_idx");
  auto left_out = padding ? constant_of(bag->namedInput("padding_idx")) : std::nullopt;
  const bool leaves_none_out = !padding || (left_out && left_out->isNone());
  const auto outputs = bag->outputs();
  return given && given->toInt() == static_cast<int64_t>(mode) && leaves_none_out &&
         std::all_of(outputs.begin() + 1, outputs.end(),
                     [](const Value* output) { return !output->hasUses(); });
}

// The op on 4-bit rows has their scales and what zero stands for in half precision.
bool fit_into_half(const at::Tensor& scales, const at::Tensor& zero_points) {
  const at::Tensor zeros = scales.to(at::kFloat).mul(zero_points.to(at::kFloat));
  return scales.to(at::kHalf).isfinite().all().item<bool>() &&
         zeros.to(at::kHalf).isfinite().all().item<bool>();
}

// Rows of unsigned integers with a float zero point each.
template <at::ScalarType type>
bool has_rows(const Context& context, const Lowering& lowering) {
  const Node* quantize = lowering.names.at("weight")->node();
  if (quantize->kind() != c10::aten::quantize_per_channel) {
    return false;
  }
  auto zero_points = context.static_tensor(quantize->namedInput("zero_points"));
  auto scales = context.static_tensor(quantize->namedInput("scales"));
  auto axis = constant_of(quantize->namedInput("axis"));
  auto dtype = constant_of(quantize->namedInput("dtype"));
  return zero_points && zero_points->is_floating_point() && scales && axis && axis->toInt() == 0 && dtype &&
         static_cast<at::ScalarType>(dtype->toInt()) == type &&
         (type != at::kQUInt4x2 || fit_into_half(*scales, *zero_points));
}

// Rows of signed integers with zero as their zero point.
bool has_symmetric_rows(const Context& /*context*/, const Lowering& lowering) {
  if (lowering.names.count("$weight_scales") == 0) {
    return false;
  }
  auto dtype = constant_of(lowering.names.at("weight")->node()->namedInput("dtype"));
  return dtype && static_cast<at::ScalarType>(dtype->toInt()) == at::kQInt8;
}

using Suits = bool (*)(const Context&, const Lowering&);

template <Suits has_these_rows, Bag mode>
bool is_bag(const Context& context, const Lowering& lowering) {
  return makes_one_row<mode>(lowering.node) && has_these_rows(context, lowering);
}

// What is done with rows that are looked up, for one way to pack them.
struct Rows {
  std::string pack;       // gives `packed`
  const char* bag;        // the op
  std::string narrowing;  // of `sums`, where the op pads them
  Suits sums, means;
};

template <Suits has_these_rows>
Rows rows_of(const std::string& pack, const char* bag, const std::string& narrowing) {
  return {pack, bag, narrowing, is_bag<has_these_rows, Bag::Sum>, is_bag<has_these_rows, Bag::Mean>};
}

// ATen's op adds up, whatever mode it is told. How many rows a bag has, the next offset says; there may be
// one for the end of the last bag.
void add_bags(std::vector<IntegerForm>& forms, const Rows& rows) {
  const std::string sums = rows.pack + "sums = " + rows.bag +
                           "(packed, indices, offsets, False, 0, False, per_sample_weights, None,"
                           " include_last_offset);" +
                           rows.narrowing;
  const std::string means = sums +
                            "first = aten::slice(offsets, 0, 0, 1, 1); all = aten::numel(indices); end = "
                            "aten::full_like(first, all);"
                            "steps = aten::diff(offsets, 1, 0, None, end); bags = aten::size(sums, 0);"
                            "sizes = aten::slice(steps, 0, 0, bags, 1); counts = aten::clamp(sizes, 1);"
                            "column = aten::unsqueeze(counts, 1); aten::div(sums, column)";
  for (const char* op : {"aten::embedding_bag", "aten::embedding_bag.padding_idx"}) {
    for (const auto& [recipe, suits] : {std::pair(sums, rows.sums), std::pair(means, rows.means)}) {
      forms.push_back({.op = op,
                       .recipe = recipe,
                       .suits = suits,
                       .becomes = rows.bag,
                       .otherwise = "it does more than to add rows up or to average them (mode='sum' or "
                                    "'mean', without padding_idx), or no op takes its kind of scales",
                       .ignores = {"scale_grad_by_freq", "mode", "sparse", "padding_idx"}});
    }
  }
}

// Indices of any shape: `sums` are the rows of `flat` ones.
IntegerForm looked_up(const char* op, const std::string& sums, Suits suits) {
  return {.op = "aten::embedding",
          .recipe = "flat = aten::flatten(indices, 0, -1);" + sums +
                    "sizes = aten::size(indices); shape = aten::add(sizes, $row_shape);"
                    "aten::reshape(sums, shape)",
          .suits = suits,
          .becomes = op,
          .ignores = {"padding_idx", "scale_grad_by_freq", "sparse"}};
}

}  // namespace

std::vector<IntegerForm> embedding_forms() {
  constexpr const char* byte = "quantized::embedding_byte";
  constexpr const char* byte_bag = "quantized::embedding_bag_byte";
  constexpr const char* nibble_bag = "quantized::embedding_bag_4bit_rowwise_offsets";
  const std::string pack = "packed = quantized::embedding_bag_prepack(weight);";
  const std::string pack_nibbles = "packed = jitquant::pack_rows_4bit(weight);";
  // Two integers to a byte: rows are packed to an even number of them.
  const std::string narrowing = "sums = aten::slice(sums, 1, 0, $features, 1);";
  // A bag for each row, as no op looks such rows up.
  const std::string nibble_rows = pack_nibbles + "column = aten::unsqueeze(flat, 1); sums = " + nibble_bag +
                                  "(packed, column, None, False, 0, False, None, None, False);" + narrowing;
  // Symmetric integers as unsigned ones, of which 128 is zero.
  const std::string pack_signed =
      "integers = aten::int_repr(weight);"
      "shifted = aten::bitwise_xor(integers, -128);"
      "bytes = aten::to(shifted, uint8);"
      "middle = aten::add($weight_zero_points, 128, 1);"
      "zeros = aten::to(middle, float32);"
      "rows = aten::_make_per_channel_quantized_tensor(bytes, $weight_scales, zeros, 0);"
      "packed = quantized::embedding_bag_prepack(rows);";
  // Of any shape of indices, which ATen's quantized op is not.
  IntegerForm symmetric{.op = "aten::embedding",
                        .recipe =
                            "integers = jitquant::pack_rows(weight);"
                            "columns = jitquant::pack_row_scales($weight_scales);"
                            "rows = aten::embedding(integers, indices);"
                            "scales = aten::embedding(columns, indices);"
                            "aten::mul(rows, scales)",
                        .suits = has_symmetric_rows,
                        .becomes = "aten::embedding",
                        .otherwise = "no op takes its kind of scales",
                        .ignores = {"padding_idx", "scale_grad_by_freq", "sparse"}};
  std::vector<IntegerForm> forms{
      looked_up(byte, pack + "sums = " + byte + "(packed, flat, False);", has_rows<at::kQUInt8>),
      looked_up(nibble_bag, nibble_rows, has_rows<at::kQUInt4x2>), symmetric};
  add_bags(forms, rows_of<has_rows<at::kQUInt8>>(pack, byte_bag, ""));
  add_bags(forms, rows_of<has_rows<at::kQUInt4x2>>(pack_nibbles, nibble_bag, narrowing));
  add_bags(forms, rows_of<has_symmetric_rows>(pack_signed, byte_bag, ""));
  return forms;
}

const Target& find_target(const std::string& name) {
  for (const Target* target : {&quantized_target(), &native_target()}) {
    if (target->name == name) {
      return *target;
    }
  }
  fail("target", "there is no target '" + name + "'", "choose 'quantized' or 'native'");
}

const IntegerForm* find_form(const Target& target, const OpRow& row) {
  for (const IntegerForm& form : target.forms()) {
    if (form.op == row.op) {
      return &form;
    }
  }
  return nullptr;
}

bool has_statistics(const Context& context, const Lowering& lowering) {
  auto training = constant_of(lowering.node->namedInput("training"));
  return training && !training->toBool() &&
         context.static_tensor(lowering.node->namedInput("running_mean")) &&
         context.static_tensor(lowering.node->namedInput("running_var"));
}

bool runs_as_it_is(const Target& target, const OpRow& row) {
  const bool right = target.plain_integers ? row.moves : row.output == Output::SameAsInput;
  return right && find_form(target, row) == nullptr;
}

bool has_integer_form(const Target& target, const OpRow& row) {
  return runs_as_it_is(target, row) || find_form(target, row) != nullptr;
}

bool has_known_slopes(const Context& context, const Lowering& lowering) {
  return context.static_tensor(lowering.node->namedInput("weight")).has_value();
}

bool fills_with_zero(const Context& /*context*/, const Lowering& lowering) {
  auto value = constant_of(lowering.node->namedInput("value"));
  return value && value->isScalar() && value->toScalar().toDouble() == 0;
}

std::optional<std::string> why_always_float(const Target& target, const Node* node) {
  const OpRow* row = find_row(node);
  if (row == nullptr) {
    return "no integer form of it is known";
  }
  if (!has_integer_form(target, *row) && !has_dynamic_form(target, *row)) {
    return "the target '" + target.name + "' has no integer op for it";
  }
  return casts(node) ? std::optional<std::string>("it is told which dtype to give") : std::nullopt;
}

const IntegerForm* choose_form(const Context& context, const Lowering& lowering) {
  const OpRow* row = find_row(lowering.node);
  for (const IntegerForm& form : context.target().forms()) {
    if (form.op == row->op && (form.suits == nullptr || form.suits(context, lowering)) &&
        (form.is_activation || !lacking_argument(form, lowering.node)) && names_are_known(form, lowering)) {
      return &form;
    }
  }
  return nullptr;
}

std::string why_no_form(const Context& context, const Lowering& lowering) {
  const OpRow* row = find_row(lowering.node);
  std::string reason;
  for (const IntegerForm& form : context.target().forms()) {
    if (form.op != row->op) {
      continue;
    }
    auto argument = form.is_activation ? std::nullopt : lacking_argument(form, lowering.node);
    if (argument) {
      reason = "the integer op takes no other '" + *argument + "' than the default";
    } else if (form.suits != nullptr && !form.suits(context, lowering)) {
      reason = std::string(form.otherwise).empty() ? "no integer op of this engine suits it" : form.otherwise;
    } else {
      reason = "the scale of an input is not known in this graph";
    }
  }
  return reason;
}

Value* build_form(const IntegerForm& form, const Lowering& lowering, Node* before) {
  auto names = lowering.names;
  Value* result = nullptr;
  const auto& recipe = lowering.relu ? form.relu_recipe : lowering.sum ? form.sum_recipe : form.recipe;
  for (const auto& statement : parse_recipe(recipe)) {
    std::vector<Value*> inputs;
    for (const auto& argument : statement.arguments) {
      auto known = names.find(argument);
      inputs.push_back(known != names.end() ? known->second : literal(argument, before));
    }
    result = insert_op(before, lowering.node, statement.op, inputs);
    names[statement.name] = result;
  }
  return result;
}

}  // namespace jitquant
