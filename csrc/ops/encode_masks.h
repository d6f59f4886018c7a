// encode_masks: paste_masks followed by COCO's run-length encoding, without the pixels in between.
//
// A pasted mask is piecewise bilinear, so down a column of the image the foreground begins or ends
// only in cells whose two samples lie on different sides of the threshold. Those places, column
// after column, are the ends of COCO's runs (common/rle.h).

#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "ops/paste_masks.h"

namespace dynamask {

// COCO counts pixels down the columns.
DYNAMASK_HOST_DEVICE int64_t column_major(int64_t x, int64_t y, int64_t height) {
  return x * height + y;
}

}  // namespace dynamask
