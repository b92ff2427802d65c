#include "csrc/runtime/spec.h"

#include <cstdio>
#include <sstream>

#include <c10/util/Exception.h>

namespace jitquant::runtime {

namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    parts.push_back(part);
  }
  return parts;
}

std::string exactly(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", number);
  return text;
}

}  // namespace

Spec::Spec(const std::string& text) {
  for (const auto& part : split(text, ' ')) {
    const size_t equals = part.find('=');
    TORCH_CHECK(equals != std::string::npos, "jitquant: the saved kernel '", text,
                "' cannot be read; it was made by another version: quantize the model again");
    words_[part.substr(0, equals)] = part.substr(equals + 1);
  }
}

std::string Spec::text() const {
  std::string text;
  for (const auto& [name, word] : words_) {
    text += (text.empty() ? "" : " ") + name + "=" + word;
  }
  return text;
}

void Spec::set(const std::string& name, const std::string& word) { words_[name] = word; }

void Spec::set(const std::string& name, const std::vector<int64_t>& numbers) {
  std::string word;
  for (const int64_t number : numbers) {
    word += (word.empty() ? "" : ",") + std::to_string(number);
  }
  words_[name] = word;
}

void Spec::set(const std::string& name, double number) { words_[name] = exactly(number); }

void Spec::set(const std::string& name, QParams params) {
  words_[name] = exactly(params.scale) + "," + std::to_string(params.zero_point);
}

void Spec::erase(const std::string& name) { words_.erase(name); }

bool Spec::has(const std::string& name) const { return words_.count(name) != 0; }

const std::string& Spec::word(const std::string& name) const {
  auto found = words_.find(name);
  TORCH_CHECK(found != words_.end(), "jitquant: the saved kernel '", text(), "' does not say its ", name,
              "; it was made by another version: quantize the model again");
  return found->second;
}

std::vector<int64_t> Spec::ints(const std::string& name) const {
  std::vector<int64_t> numbers;
  for (const auto& part : split(word(name), ',')) {
    numbers.push_back(std::stoll(part));
  }
  return numbers;
}

int64_t Spec::integer(const std::string& name) const { return std::stoll(word(name)); }

double Spec::number(const std::string& name) const { return std::stod(word(name)); }

std::optional<QParams> Spec::qparams(const std::string& name) const {
  if (!has(name)) {
    return std::nullopt;
  }
  const auto parts = split(word(name), ',');
  return QParams{std::stod(parts.at(0)), std::stoll(parts.at(1))};
}

Activation Spec::activation() const {
  Activation activation;
  if (has("activation")) {
    const auto parts = split(word("activation"), ',');
    activation.name = parts.at(0);
    for (size_t i = 1; i < parts.size(); ++i) {
      activation.arguments.push_back(std::stod(parts[i]));
    }
  }
  return activation;
}

}  // namespace jitquant::runtime
