// Who does what: rows are grouped into tiles, tiles and their keys are cut into parts, threads take parts.
#pragma once

#include "kernels.hpp"

namespace strobe {

enum class Shape { many, few };  // of the rows; `few` gives way to `many` where they do not fit one tile

int32_t attend(strobe_attention &call, Shape shape);

}  // namespace strobe
