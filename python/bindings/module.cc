#include <cstdlib>  // for __GLIBC__
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <iterator>

#include "base/cpu.h"
#include "base/limits.h"
#include "checksum/content_hash.h"
#include "convert.h"

namespace ostraca::python {
namespace {

std::vector<std::string> feature_names() {
  const CpuFeatures& f = cpu_features();
  std::vector<std::string> names;
  for (const auto& [name, present] : {std::pair("sse42", f.sse42),
                                      {"avx2", f.avx2},
                                      {"avx512", f.avx512},
                                      {"vpclmulqdq", f.vpclmulqdq},
                                      {"arm_crc", f.arm_crc},
                                      {"neon", f.neon}})
    if (present) names.emplace_back(name);
  return names;
}

// What Python would otherwise have to repeat.
void bind_constants(py::module_& m) {
  m.attr("CHUNK_BYTES_MAX") = kChunkBytesMax;
  m.attr("PACK_BYTES_MAX") = kPackBytesMax;
  m.attr("PACK_MEMBER_BYTES_MAX") = kPackMemberBytesMax;
  m.attr("BLOCK_BYTES") = kBlockBytes;
  m.attr("ALIGNMENT_MAX") = kAlignmentMax;
  m.attr("DOCUMENT_BYTES_MAX") = kManifestBytesMax;
  m.attr("KEY_PATH_BYTES_MAX") = kKeyPathBytesMax;
  m.attr("ITEM_BYTES_MAX") = kItemBytesMax;
  m.attr("RANK_MAX") = kRankMax;
  m.attr("HUGE_PAGE_BYTES_MIN") = kHugePageBytesMin;
  py::tuple codecs(std::size(kCodecNames));
  for (std::size_t i = 0; i < std::size(kCodecNames); ++i) codecs[i] = kCodecNames[i];
  m.attr("CODEC_NAMES") = codecs;
}

py::bytes hash_of(const py::array& array) {
  if (!(array.flags() & py::array::c_style)) throw py::value_error("only an array in C order can be hashed");
  const Bytes memory(static_cast<const std::byte*>(array.data()), static_cast<std::size_t>(array.nbytes()));
  const ContentHash hash = without_gil([&] { return content_hash(memory); });
  return {reinterpret_cast<const char*>(hash.data()), hash.size()};
}

void release_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace
}  // namespace ostraca::python

// pybind11 would wait for ever in a subinterpreter, before it looks whether the module allows them: the function that
// Python calls checks first.
#undef PYBIND11_PLUGIN_IMPL
#define PYBIND11_PLUGIN_IMPL(name) static PyObject* init_##name()

static PyObject* init__core();
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) return init__core();
  PyErr_SetString(PyExc_ImportError,
                  "ostraca cannot be imported in a subinterpreter: its engine serves one interpreter of a process. "
                  "Import it in the main interpreter, or use a process");
  return nullptr;
}

PYBIND11_MODULE(_core, m) {
  using namespace ostraca::python;
  m.doc() = "Ostraca's engine. The public face is the package ostraca.";
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::bad_alloc&) {
      PyErr_SetString(PyExc_MemoryError,
                      "memory for the engine's tables cannot be had: threads=, coding_bytes=, staging_bytes= and "
                      "keep_bytes= lower what else it takes");
    }
  });
  m.attr("VERSION") = OSTRACA_VERSION;
  bind_constants(m);
  bind_writer(m);
  bind_reader(m);
  bind_run(m);
  m.def("allocate", &allocate, py::arg("nbytes"));
  m.def("content_hash", &hash_of, py::arg("array"));
  m.def("release_free_memory", &release_free_memory, py::call_guard<GilReleased>());
  m.def("usable_cores", &ostraca::usable_cores);
  m.def("available_memory_bytes", &ostraca::available_memory_bytes);
  m.def("cpu_features", [] {
    py::list names;
    for (const std::string& name : feature_names()) names.append(name);
    return names;
  });
}
