// What makes the library importable as a Python extension, so that a wheel can carry it. Nobody imports it: library.py
// opens it with ctypes.
#if defined(__has_include) && __has_include(<Python.h>)
#include <Python.h>

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__cpu(void) { return PyModule_Create(&module); }
#endif
