#include "cuda/encode_masks.cuh"

#include "hostcuda/paste_masks.h"

int main(int, char** arguments) {
  using namespace dynamask::cuda;
  hostcuda::Input in(arguments[1]);
  hostcuda::Output out(arguments[2]);
  const hostcuda::PasteArguments given(in);
  const PasteMasks& masks = given.masks;

  std::vector<int64_t> counts(masks.count * counts_of_mask(masks.width));
  encode_masks_count({}, masks, counts.data());
  const auto ends = hostcuda::running_sum(counts);
  auto places = hostcuda::garbage<int64_t>(ends.back() + masks.count);
  auto lengths = hostcuda::garbage<int64_t>(places.size());
  encode_masks_places({}, masks, counts.data(), ends.data(), places.data(), lengths.data());
  const auto text_ends = hostcuda::running_sum(lengths);
  auto bytes = hostcuda::garbage<uint8_t>(text_ends.back());
  std::vector<int64_t> offsets(masks.count + 1);
  encode_masks_text({}, masks, ends.data(), places.data(), lengths.data(), text_ends.data(),
                    bytes.data(), offsets.data());
  out.array(offsets);
  out.array(bytes);
}
