// An equation of einsum, as far as it is a product of matrices. The native target asks before it makes a
// kernel, and the kernel reads it again.
#pragma once

#include <algorithm>
#include <cctype>
#include <optional>
#include <string>

namespace jitquant::runtime {

// A letter for each dimension.
struct Equation {
  std::string left;
  std::string right;
  std::string result;
};

inline bool has_letter(const std::string& letters, char letter) {
  return letters.find(letter) != std::string::npos;
}

// What einsum gives where the equation has no arrow.
inline std::string letters_of_one(const std::string& left, const std::string& right) {
  std::string letters;
  for (const char letter : left + right) {
    if (has_letter(left, letter) != has_letter(right, letter)) {
      letters += letter;
    }
  }
  std::sort(letters.begin(), letters.end());
  return letters;
}

inline bool are_different_letters(std::string text) {
  std::sort(text.begin(), text.end());
  return std::adjacent_find(text.begin(), text.end()) == text.end() &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char letter) { return std::isalpha(letter) != 0; });
}

// Each letter is in two of the three at least, and one of them in both operands only: that is summed over.
inline bool is_product(const Equation& equation) {
  const auto& [left, right, result] = equation;
  bool sums = false;
  for (const char letter : left + right + result) {
    const int places = has_letter(left, letter) + has_letter(right, letter) + has_letter(result, letter);
    if (places < 2) {
      return false;
    }
    sums = sums || !has_letter(result, letter);
  }
  return sums;
}

// Words of a spec have no spaces.
inline std::string without_spaces(std::string text) {
  text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
  return text;
}

// Nothing where it is no such product of two operands.
inline std::optional<Equation> parse_equation(const std::string& given) {
  const std::string text = without_spaces(given);
  const size_t arrow = text.find("->");
  const std::string operands = text.substr(0, arrow);
  const size_t comma = operands.find(',');
  if (comma == std::string::npos) {
    return std::nullopt;
  }
  Equation equation{operands.substr(0, comma), operands.substr(comma + 1), ""};
  equation.result =
      arrow == std::string::npos ? letters_of_one(equation.left, equation.right) : text.substr(arrow + 2);
  const bool letters = are_different_letters(equation.left) && are_different_letters(equation.right) &&
                       are_different_letters(equation.result);
  return letters && is_product(equation) ? std::optional(equation) : std::nullopt;
}

}  // namespace jitquant::runtime
