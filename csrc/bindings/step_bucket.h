// What is stepped together: pointers, counters and the launches.
#pragma once

#include <algorithm>
#include <cmath>
#include <tuple>

#include "step_input.h"

namespace fusedstep {

// torch's count of steps: a 0-d float tensor on the CPU.
class StepCounter {
 public:
  explicit StepCounter(py::handle tensor)
      : data_(reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<std::uintptr_t>())),
        wide_(tensor.attr("itemsize").cast<int>() == 8) {}

  double get() const { return wide_ ? *static_cast<double*>(data_) : double{*static_cast<float*>(data_)}; }
  bool is_count() const {
    const double count = get();
    return count >= 0 && count < 9e15 && count == std::floor(count);
  }
  void advance() const {
    if (wide_) {
      *static_cast<double*>(data_) += 1;
    } else {
      *static_cast<float*>(data_) += 1;
    }
  }

 private:
  void* data_;
  bool wide_;
};

template <class T>
using Spans = std::vector<launch::Span<T>>;
using GradientSpans = std::tuple<Spans<float>, Spans<double>, Spans<Half>, Spans<Bfloat16>>;

// Parameters of one group and one type, stepped together.
class Bucket {
 public:
  virtual ~Bucket() = default;
  virtual std::size_t count() const = 0;
  virtual void set_gradient(std::size_t row, const void* data) = 0;
  virtual void add_gradients(GradientSpans& spans) const = 0;
  // Rows whose counters agree go together.
  virtual void step(const launch::Context& context, launch::Step call) const = 0;

  std::size_t group = 0;
  Rule rule{};
  std::vector<StepCounter> counters;  // one a row; none where the method counts no steps
};

template <class P, class S>
class BucketOf : public Bucket {
 public:
  explicit BucketOf(std::vector<launch::StepArrays<P, S>> rows) : rows_(std::move(rows)) {}

  std::size_t count() const override { return rows_.size(); }
  void set_gradient(std::size_t row, const void* data) override { rows_[row].g = static_cast<const P*>(data); }
  void add_gradients(GradientSpans& spans) const override {
    for (const auto& row : rows_) std::get<Spans<P>>(spans).push_back({row.g, row.n});
  }
  void step(const launch::Context& context, launch::Step call) const override {
    if (counters.empty()) return launch::step(context, call, rows_);
    const double first = counters[0].get();
    if (std::all_of(counters.begin(), counters.end(), [first](const auto& c) { return c.get() == first; })) {
      call.step.value = static_cast<std::uint64_t>(first) + 1;
      launch::step(context, call, rows_);
    } else {
      std::vector<double> counts;
      for (const StepCounter& counter : counters) counts.push_back(counter.get());
      std::vector<double> distinct(counts);
      std::sort(distinct.begin(), distinct.end());
      distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
      for (double count : distinct) {
        std::vector<launch::StepArrays<P, S>> rows;
        for (std::size_t i = 0; i < rows_.size(); ++i) {
          if (counts[i] == count) rows.push_back(rows_[i]);
        }
        call.step.value = static_cast<std::uint64_t>(count) + 1;
        launch::step(context, call, rows);
      }
    }
    for (const StepCounter& counter : counters) counter.advance();
  }

 private:
  std::vector<launch::StepArrays<P, S>> rows_;
};

}  // namespace fusedstep
