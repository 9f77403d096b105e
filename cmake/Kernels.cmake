# Kernels are chosen at run time, so one binary serves every CPU of an architecture: a file asks for instructions
# by its name's suffix, and only such files are compiled with flags beyond the baseline. They hold intrinsics and
# anonymous-namespace code only: an inline function of a shared header, emitted there, could be the copy the linker
# keeps for everybody.

set(avx2_flags -msse4.2 -mpclmul -mavx2 -mbmi -mbmi2)
set(OSTRACA_X86_SUFFIXES sse42 avx2 avx512)
set(OSTRACA_ARM64_SUFFIXES arm64)
set(OSTRACA_FLAGS_sse42 -msse4.2 -mpclmul)
set(OSTRACA_FLAGS_avx2 ${avx2_flags})
set(OSTRACA_FLAGS_avx512
    ${avx2_flags} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mvpclmulqdq)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC warns of its own avx512fintrin.h (bug 105593).
  list(APPEND OSTRACA_FLAGS_avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
set(OSTRACA_FLAGS_arm64 -march=armv8-a+crc+crypto)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(OSTRACA_KERNEL_SUFFIXES ${OSTRACA_X86_SUFFIXES})
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(OSTRACA_KERNEL_SUFFIXES ${OSTRACA_ARM64_SUFFIXES})
else()
  set(OSTRACA_KERNEL_SUFFIXES)
endif()

# Drops from the list named `sources_variable` the kernels of other architectures and sets the flags of the rest.
function(ostraca_set_kernel_flags sources_variable)
  set(kept ${${sources_variable}})
  foreach(suffix IN LISTS OSTRACA_X86_SUFFIXES OSTRACA_ARM64_SUFFIXES)
    set(files ${kept})
    list(FILTER files INCLUDE REGEX "_${suffix}\\.cc$")
    if(suffix IN_LIST OSTRACA_KERNEL_SUFFIXES)
      set_source_files_properties(${files} PROPERTIES COMPILE_OPTIONS "${OSTRACA_FLAGS_${suffix}}")
    elseif(files)
      list(REMOVE_ITEM kept ${files})
    endif()
  endforeach()
  set(${sources_variable} ${kept} PARENT_SCOPE)
endfunction()
