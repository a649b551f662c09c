// Few queries. The arithmetic is few.hpp's (or isa/amx_few.hpp's), the order of the work schedule.cpp's.
#include "schedule.hpp"

extern "C" int32_t strobe_decode(strobe_attention *call) { return strobe::attend(*call, strobe::Shape::few); }
