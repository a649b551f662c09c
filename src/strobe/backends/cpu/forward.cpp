// Many queries. The arithmetic is tile.hpp's (or isa/amx.hpp's), the order of the work schedule.cpp's.
#include "schedule.hpp"

extern "C" int32_t strobe_forward(strobe_attention *call) { return strobe::attend(*call, strobe::Shape::many); }
