// Who does what: rows are grouped into tiles, tiles and their keys are cut into parts, threads take parts.
#pragma once

#include "kernels.hpp"

namespace strobe {

enum class Shape { many, few };  // of the rows; `few` gives way to `many` where they do not fit one tile

int32_t attend(strobe_attention &call, Shape shape);

// What the backward pass shares: whether a call may be believed, and the rows and keys of a sequence and key head.
int32_t check_call(strobe_attention &call);
void rows_and_keys(const strobe_attention &call, int64_t b, int64_t g, Rows *rows, Keys *keys);

}  // namespace strobe
