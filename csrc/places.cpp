#include "csrc/places.h"

namespace jitquant {

using torch::jit::Node;

namespace {

// Pairs, one number after the other.
c10::Symbol places_attribute() {
  static const c10::Symbol name = c10::Symbol::attr("places");
  return name;
}

void write(Node* node, const std::vector<Place>& places) {
  std::vector<int64_t> numbers;
  for (const Place& place : places) {
    numbers.push_back(place.report);
    numbers.push_back(place.output);
  }
  if (!numbers.empty()) {
    node->is_(places_attribute(), std::move(numbers));
  }
}

}  // namespace

std::vector<Place> places_of(const Node* node) {
  std::vector<Place> places;
  if (node->hasAttribute(places_attribute())) {
    const auto& numbers = node->is(places_attribute());
    for (size_t i = 0; i + 1 < numbers.size(); i += 2) {
      places.push_back({numbers[i], numbers[i + 1]});
    }
  }
  return places;
}

void set_places(Node* node, const std::vector<int64_t>& reports) {
  std::vector<Place> places;
  for (const int64_t report : reports) {
    places.push_back({report, report == reports.back() ? 0 : kWithin});
  }
  write(node, places);
}

void join_places(const std::vector<const Node*>& nodes, Node* made) {
  std::vector<int64_t> reports;
  for (const Node* node : nodes) {
    for (const Place& place : node == nullptr ? std::vector<Place>() : places_of(node)) {
      reports.push_back(place.report);
    }
  }
  set_places(made, reports);
}

void part_places(const std::vector<const Node*>& parts, Node* made) {
  std::vector<Place> places;
  for (size_t i = 0; i < parts.size(); ++i) {
    for (const Place& place : places_of(parts[i])) {
      places.push_back({place.report, place.output == kWithin ? kWithin : static_cast<int64_t>(i)});
    }
  }
  write(made, places);
}

void remove_places(Node* node) {
  if (node->hasAttribute(places_attribute())) {
    node->removeAttribute(places_attribute());
  }
}

}  // namespace jitquant
