// Feeds damaged run-length strings to common/rle.h. Built with sanitizers by ../test_fuzz.py:
//
//   g++ -std=c++17 -O1 -fsanitize=address,undefined -Icsrc tests/native/fuzz_rle.cpp -o fuzz_rle
//   ./fuzz_rle SECONDS SEED
//
// Every sound mask has to come back exactly, and of every damaged string each function either
// makes a mask of the claimed size or says what is wrong.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

#include "common/rle.h"

namespace rle = dynamask::rle;

namespace {

std::mt19937_64 random_bits;

int64_t below(int64_t limit) {
  return static_cast<int64_t>(random_bits() % static_cast<uint64_t>(limit));
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("broken: %s\n", what);
  std::abort();
}

rle::Runs random_runs(int64_t pixels) {
  rle::Runs runs;
  for (int64_t left = pixels; left > 0;) {
    int64_t run = std::min(left, below(2 + pixels / 8));
    if (run == 0 && !runs.empty()) run = 1;
    runs.push_back(static_cast<uint32_t>(run));
    left -= run;
  }
  return runs;
}

void damage(std::string& text) {
  for (int64_t times = 1 + below(4); times > 0; --times) {
    if (text.empty()) return;
    const auto at = static_cast<size_t>(below(static_cast<int64_t>(text.size())));
    switch (below(5)) {
      case 0:
        text[at] = static_cast<char>(random_bits());
        break;
      case 1:
        text.erase(at, 1);
        break;
      case 2:
        text.insert(at, 1, static_cast<char>(48 + below(64)));
        break;
      case 3:
        text.resize(at);
        break;
      default:
        text[at] = static_cast<char>(text[at] ^ (1 << below(7)));
    }
  }
}

void use(const rle::Runs& runs, int64_t height, int64_t pixels) {
  // exactly as much memory as there are pixels, so that a sanitizer sees one too many
  const std::unique_ptr<uint8_t[]> pixel(new uint8_t[pixels]);
  rle::to_pixels(runs, pixel.get());
  int64_t area = 0;
  for (int64_t i = 0; i < pixels; ++i) area += pixel[i];
  require(area == rle::area(runs), "area");
  const rle::Runs again = rle::from_pixels(pixel.get(), pixels);
  require(rle::merge(again, runs, false) == again, "union with itself");
  require(rle::merge(runs, again, true) == again, "intersection with itself");
  require(rle::iou(runs, again, false) == (area > 0 ? 1 : 0), "iou with itself");
  const rle::Box box = rle::box(runs, height);
  require(box.width * box.height >= area, "box");
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 2;
  random_bits.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  int64_t sound = 0, taken = 0, refused = 0;
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() <
         seconds) {
    const int64_t height = 1 + below(64), pixels = height * (1 + below(64));
    const rle::Runs runs = random_runs(pixels);
    std::string text = rle::to_string(runs);
    require(rle::from_string(text, pixels) == runs, "round trip");
    use(runs, height, pixels);
    ++sound;
    damage(text);
    // a block of its own for the string as well
    const std::vector<char> block(text.begin(), text.end());
    try {
      use(rle::from_string({block.data(), block.size()}, pixels), height, pixels);
      ++taken;
    } catch (const std::invalid_argument&) {
      ++refused;
    }
  }
  std::printf("%lld sound masks exact; damaged strings: %lld taken, %lld refused\n",
              static_cast<long long>(sound), static_cast<long long>(taken),
              static_cast<long long>(refused));
}
