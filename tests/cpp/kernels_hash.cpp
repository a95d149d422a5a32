// Every kernel on numbers made here, and a hash of the bits that it gave: one line each, the same on every processor,
// with every compiler, instruction set and number of threads. Prints the lines of one setting after all agree.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "../../csrc/cpu/dispatch.h"
#include "../../csrc/cpu/parallel.h"
#include "../../csrc/launch.h"

namespace fusedstep {
namespace {

// Sizes beside the widths of vectors, leaves and pieces.
constexpr std::int64_t kSizes[] = {1, 15, 17, 97, 513, 40000};
constexpr std::int64_t kLargest = 40000;

const launch::Context context;

// Numbers from integers alone: no library's functions, whose bits differ.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  double next() {  // in (-4, 4), with 24 bits
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return static_cast<double>(static_cast<std::int64_t>(state_ >> 40) - (1 << 23)) / (1 << 21);
  }

 private:
  std::uint64_t state_;
};

template <class T>
std::vector<T> values(std::int64_t n, std::uint64_t seed, bool positive = false) {
  Numbers numbers(seed);
  std::vector<T> result(static_cast<std::size_t>(n));
  for (T& x : result) {
    const double value = numbers.next();
    x = narrow<T>(static_cast<Arithmetic<T>>(positive ? std::fabs(value) : value));
  }
  return result;
}

// NaN, infinities, zeros and the smallest numbers at the front of arrays that are long enough.
template <class T>
void add_odd_values(std::vector<T>& x) {
  using A = Arithmetic<T>;
  const double infinity = std::numeric_limits<double>::infinity();
  const double odd[] = {infinity, -infinity, 0.0, -0.0, std::numeric_limits<double>::quiet_NaN(), 1e-42, 3e-320, 1e30};
  for (std::size_t i = 0; i < 8 && x.size() > 64; ++i) x[3 * i] = narrow<T>(static_cast<A>(odd[i]));
}

// FNV-1a, with every NaN made the same: their payloads differ between processors.
class Hash {
 public:
  template <class T>
  void add(const std::vector<T>& x) {
    for (const T& value : x) {
      const double wide = static_cast<double>(widen(value));
      std::uint64_t bits = 0;
      if (wide != wide) {
        bits = 0x7ff8;
      } else {
        std::memcpy(&bits, &value, sizeof value);
      }
      for (int byte = 0; byte < 8; ++byte) hash_ = (hash_ ^ (bits >> (8 * byte) & 0xff)) * 0x100000001b3u;
    }
  }
  void add(double x) { add(std::vector<double>{x}); }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

using Lines = std::map<std::string, Hash>;

template <class T>
const char* name_of();
template <>
const char* name_of<float>() {
  return "float32";
}
template <>
const char* name_of<double>() {
  return "float64";
}
template <>
const char* name_of<Half>() {
  return "float16";
}
template <>
const char* name_of<Bfloat16>() {
  return "bfloat16";
}

template <class P, class S>
void steps(Lines& lines) {
  const char* rules[] = {
#define FUSEDSTEP_NAME(rule) #rule,
      FUSEDSTEP_RULES(FUSEDSTEP_NAME)
#undef FUSEDSTEP_NAME
  };
  for (int rule = 0; rule < kRuleCount; ++rule) {
    for (int decay = 0; decay < 3; ++decay) {
      Hash& hash = lines[std::string("step ") + rules[rule] + " " + name_of<P>() + " " + name_of<S>()];
      for (const std::int64_t n : kSizes) {
        std::vector<P> p = values<P>(n, 1), g = values<P>(n, 2);
        if (n % 2) add_odd_values(g);
        // Averages of squares are never negative.
        std::vector<S> states[3] = {values<S>(n, 3, true), values<S>(n, 4, true), values<S>(n, 5, true)};
        std::vector<S> ema = values<S>(n, 6);
        launch::Step call{};
        call.rule = static_cast<Rule>(rule);
        call.options.weight_decay = decay == 0 ? 0 : 0.03;
        call.options.decoupled = decay == 2;
        call.options.decay1 = 0.9, call.options.damping1 = 0.9, call.options.decay2 = 0.99, call.options.eps = 1e-3;
        call.options.bias_correction = true;
        call.options.rectified = rule == kRadam;
        call.options.scheduled = rule == kNadam, call.options.momentum_schedule = 0.996;
        if (rule == kLars || rule == kLamb) call.options.trust = {true, true, 0.7, 0.03, 1e-8};
        call.lr.value = 0.01, call.multiplier.value = 0.5, call.ema_decay = 0.75;
        for (const std::uint64_t step : {1u, 2u, 7u}) {
          call.step.value = step;
          launch::step<P, S>(
              context, call,
              {{p.data(), g.data(), {states[0].data(), states[1].data(), states[2].data()}, ema.data(), n}});
        }
        hash.add(p), hash.add(ema);
        for (const std::vector<S>& state : states) hash.add(state);
      }
    }
  }
}

template <class T>
void norms(Lines& lines) {
  Hash& hash = lines[std::string("norm ") + name_of<T>()];
  for (const std::int64_t n : kSizes) {
    const std::vector<T> x = values<T>(n, 7), y = values<T>(33, 8);
    double norm = 0;
    launch::global_norm<T>(context, {{x.data(), n}, {y.data(), 33}}, {&norm, true}, nullptr);
    hash.add(norm);
  }
}

template <class T>
void batch_norms(Lines& lines) {
  using A = Arithmetic<T>;
  Hash& hash = lines[std::string("batch norm ") + name_of<T>()];
  const launch::Dropout dropout{0.3, 11, {5, nullptr, launch::ScalarType::kInt64}};
  for (const ChannelShape shape : {ChannelShape{2, 3, 1}, {600, 70, 1}, {33, 5, 19}, {3, 2, 1500}}) {
    for (const bool relu : {false, true}) {
      for (const bool training : {true, false}) {
        const std::int64_t n = shape.size(), channels = shape.channels;
        const std::vector<T> x = values<T>(n, 12), dy = values<T>(n, 13);
        std::vector<T> weight = values<T>(channels, 14), bias = values<T>(channels, 15), y(x), dx(x);
        std::vector<A> running_mean = values<A>(channels, 16), running_var = values<A>(channels, 17, true);
        std::vector<A> mean(running_mean), var(running_mean), dweight(mean), dbias(mean);
        launch::BatchNorm<T> call{};
        call.shape = shape;
        call.weight = {weight.data(), true}, call.bias = {bias.data(), true};
        call.running_mean = {running_mean.data(), false}, call.running_var = {running_var.data(), false};
        call.mean = mean.data(), call.var = var.data(), call.eps = 1e-5, call.relu = relu, call.training = training;
        call.fraction = 0.1, call.unbiased = true, call.dropout = relu ? &dropout : nullptr;
        launch::batch_norm<T>(context, call, x.data(), y.data());
        launch::batch_norm_backward<T>(context, call, dy.data(), x.data(), dx.data(), {dweight.data(), false},
                                       {dbias.data(), false});
        hash.add(y), hash.add(dx);
        for (const std::vector<A>& vector : {mean, var, running_mean, running_var, dweight, dbias}) hash.add(vector);
      }
    }
  }
}

template <class T>
void dropouts(Lines& lines) {
  Hash& hash = lines[std::string("dropout ") + name_of<T>()];
  for (const std::int64_t n : kSizes) {
    for (const bool relu : {false, true}) {
      const launch::Dropout dropout{0.4, 0xfedcba9876543210u, {1u << 20, nullptr, launch::ScalarType::kInt64}};
      std::vector<T> x = values<T>(n, 18), y(x), dx(x);
      add_odd_values(x);
      launch::dropout<T>(context, x.data(), y.data(), n, dropout, relu);
      launch::dropout_relu_backward<T>(context, x.data(), y.data(), dx.data(), n, dropout.p);
      hash.add(y), hash.add(dx);
      const std::int64_t stride = 1;
      launch::dropout_strided<T>(context, x.data(), &stride, y.data(), &stride, &n, 1, dropout, relu);
      hash.add(y);
    }
  }
}

template <class T>
void layers(Lines& lines) {
  const char* activations[] = {
#define FUSEDSTEP_NAME(activation) #activation,
      FUSEDSTEP_ACTIVATIONS(FUSEDSTEP_NAME)
#undef FUSEDSTEP_NAME
  };
  for (int activation = 0; activation < kActivationCount; ++activation) {
    Hash& hash = lines[std::string("activation ") + activations[activation] + " " + name_of<T>()];
    for (const std::int64_t columns : {std::int64_t{1}, std::int64_t{17}, std::int64_t{130}}) {
      const std::int64_t rows = 300, n = rows * columns;
      std::vector<T> x = values<T>(n, 19), bias = values<T>(columns, 20), y(x), dx(x), dbias(bias);
      add_odd_values(x);
      const auto kind = static_cast<Activation>(activation);
      launch::bias_activation<T>(context, kind, x.data(), bias.data(), y.data(), rows, columns, 0.1);
      launch::bias_activation_backward<T>(context, kind, x.data(), y.data(), dx.data(), dbias.data(), rows, columns,
                                          0.1);
      hash.add(y), hash.add(dx), hash.add(dbias);
    }
  }
  Hash& hash = lines[std::string("losses ") + name_of<T>()];
  for (const std::int64_t classes : {std::int64_t{1}, std::int64_t{10}, std::int64_t{67}}) {
    const std::int64_t rows = 401, n = rows * classes;
    const std::vector<T> logits = values<T>(n, 21);
    std::vector<T> target = values<T>(n, 22, true), gradient(logits);
    for (T& t : target) t /= 4;
    std::vector<std::int64_t> labels(static_cast<std::size_t>(rows));
    for (std::int64_t i = 0; i < rows; ++i) labels[static_cast<std::size_t>(i)] = i % classes;
    const launch::LossWeights weights{nullptr, static_cast<double>(rows)};
    double value = 0;
    launch::softmax_cross_entropy<T>(context, logits.data(), labels.data(), weights, gradient.data(), &value, rows,
                                     classes);
    hash.add(value), hash.add(gradient);
    for (const auto loss : {launch::Pairwise::kSigmoidCrossEntropy, launch::Pairwise::kMeanSquaredError}) {
      launch::pairwise_loss<T>(context, loss, logits.data(), target.data(), weights, gradient.data(), &value, rows,
                               classes);
      hash.add(value), hash.add(gradient);
    }
  }
}

Lines run() {
  Lines lines;
#define FUSEDSTEP_RUN(P, S) steps<P, S>(lines);
  FUSEDSTEP_STEP_TYPES(FUSEDSTEP_RUN)
#undef FUSEDSTEP_RUN
#define FUSEDSTEP_RUN(T) norms<T>(lines), batch_norms<T>(lines), dropouts<T>(lines);
  FUSEDSTEP_TYPES(FUSEDSTEP_RUN)
#undef FUSEDSTEP_RUN
  layers<float>(lines), layers<double>(lines);
  std::vector<unsigned char> keep(static_cast<std::size_t>(kLargest));
  launch::dropout_mask(context, keep.data(), kLargest, {0.5, 3, {}}, false);
  lines["dropout mask"].add(std::vector<double>(keep.begin(), keep.end()));
  const std::int64_t ragged = kLargest - 3;  // the last byte is not full
  std::vector<unsigned char> bits(static_cast<std::size_t>((ragged + 7) / 8));
  launch::dropout_mask(context, bits.data(), ragged, {0.5, 3, {}}, true);
  lines["dropout mask, packed"].add(std::vector<double>(bits.begin(), bits.end()));
  return lines;
}

}  // namespace
}  // namespace fusedstep

int main() {
  using namespace fusedstep;
  cpu::set_serial_bytes(0);
  Lines first;
  int differences = 0;
  for (const std::string& isa : cpu::available_isas()) {
    for (const int threads : {1, 3}) {
      cpu::set_isa(isa);
      cpu::set_num_threads(threads);
      const Lines lines = run();
      if (first.empty()) first = lines;
      for (const auto& [name, hash] : lines) {
        if (hash.value() == first.at(name).value()) continue;
        std::fprintf(stderr, "%s: other bits on %s with %d threads\n", name.c_str(), isa.c_str(), threads);
        ++differences;
      }
    }
  }
  for (const auto& [name, hash] : first) {
    std::printf("%016llx %s\n", static_cast<unsigned long long>(hash.value()), name.c_str());
  }
  return differences != 0;
}
