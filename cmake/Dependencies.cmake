# Dependencies: the system's when it has them, else the official release, pinned by hash.
# Sets OSTRACA_ZSTD_TARGET; defines ostraca_xxhash and ostraca_json (header-only) and, when asked for, GTest::gtest_main
# and benchmark::benchmark_main.

include(FetchContent)
if(POLICY CMP0135)
  cmake_policy(SET CMP0135 NEW)  # extracted files get the time of extraction
endif()

find_package(Threads REQUIRED)

# zstd, always the static library: it is linked in, with its symbols kept in.
find_package(zstd CONFIG QUIET)
if(TARGET zstd::libzstd_static)
  set(OSTRACA_ZSTD_TARGET zstd::libzstd_static)
else()
  set(ZSTD_BUILD_PROGRAMS OFF CACHE INTERNAL "")
  set(ZSTD_BUILD_TESTS OFF CACHE INTERNAL "")
  set(ZSTD_BUILD_SHARED OFF CACHE INTERNAL "")
  set(ZSTD_BUILD_STATIC ON CACHE INTERNAL "")
  set(ZSTD_LEGACY_SUPPORT OFF CACHE INTERNAL "")
  set(ZSTD_MULTITHREAD_SUPPORT OFF CACHE INTERNAL "")
  FetchContent_Declare(zstd
    URL https://github.com/facebook/zstd/releases/download/v1.5.7/zstd-1.5.7.tar.gz
    URL_HASH SHA256=eb33e51f49a15e023950cd7825ca74a4a2b43db8354825ac24fc1b7ee09e6fa3
    SOURCE_SUBDIR build/cmake)
  FetchContent_MakeAvailable(zstd)
  target_include_directories(libzstd_static INTERFACE $<BUILD_INTERFACE:${zstd_SOURCE_DIR}/lib>)
  set(OSTRACA_ZSTD_TARGET libzstd_static)
endif()

# Header-only dependencies are system includes of our own interface targets: their warnings are not ours.
add_library(ostraca_xxhash INTERFACE)
find_path(XXHASH_INCLUDE_DIR xxhash.h)
if(NOT XXHASH_INCLUDE_DIR)
  FetchContent_Declare(xxhash
    URL https://github.com/Cyan4973/xxHash/archive/refs/tags/v0.8.3.tar.gz
    URL_HASH SHA256=aae608dfe8213dfd05d909a57718ef82f30722c392344583d3f39050c7f29a80
    SOURCE_SUBDIR headers-only)  # no such folder: fetched, its own build left alone
  FetchContent_MakeAvailable(xxhash)
  set(XXHASH_INCLUDE_DIR ${xxhash_SOURCE_DIR})
endif()
target_include_directories(ostraca_xxhash SYSTEM INTERFACE ${XXHASH_INCLUDE_DIR})

add_library(ostraca_json INTERFACE)
find_package(nlohmann_json 3.10 CONFIG QUIET)
if(nlohmann_json_FOUND)
  target_link_libraries(ostraca_json INTERFACE nlohmann_json::nlohmann_json)
else()
  FetchContent_Declare(json
    URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
    URL_HASH SHA256=d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d
    SOURCE_SUBDIR headers-only)
  FetchContent_MakeAvailable(json)
  target_include_directories(ostraca_json SYSTEM INTERFACE ${json_SOURCE_DIR}/include)
endif()

if(OSTRACA_BUILD_TESTS)
  find_package(GTest CONFIG QUIET)
  if(NOT TARGET GTest::gtest_main)
    set(INSTALL_GTEST OFF CACHE INTERNAL "")
    set(BUILD_GMOCK OFF CACHE INTERNAL "")
    FetchContent_Declare(googletest
      URL https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
      URL_HASH SHA256=8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7)
    FetchContent_MakeAvailable(googletest)
  endif()
endif()

if(OSTRACA_BUILD_BENCHMARKS)
  find_package(benchmark CONFIG QUIET)
  if(NOT TARGET benchmark::benchmark_main)
    set(BENCHMARK_ENABLE_TESTING OFF CACHE INTERNAL "")
    set(BENCHMARK_ENABLE_INSTALL OFF CACHE INTERNAL "")
    FetchContent_Declare(benchmark
      URL https://github.com/google/benchmark/archive/refs/tags/v1.8.3.tar.gz
      URL_HASH SHA256=6bc180a57d23d4d9515519f92b0c83d61b05b5bab188961f36ac7b06b0d9e9ce)
    FetchContent_MakeAvailable(benchmark)
  endif()
endif()
