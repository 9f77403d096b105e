// Ostraca in a C++ program: saves two arrays, loads a part of one, verifies. Takes the checkpoint's path.

#include <cstdio>
#include <vector>

#include "ostraca/reader.h"
#include "ostraca/writer.h"

using namespace ostraca;

static Status run(const std::string& path) {
  const std::vector<float> weights(1000 * 512, 0.5f);
  const std::vector<std::int64_t> ids{3, 1, 4, 1, 5};
  const auto bytes = [](const auto& array) { return reinterpret_cast<const std::byte*>(array.data()); };

  OSTRACA_ASSIGN_OR_RETURN(const auto writer, Writer::create(path, {.overwrite = true}));
  OSTRACA_RETURN_IF_ERROR(writer->add(
      {.path = key_path_from_name("layer/w"), .dtype = DType::kFloat32, .shape = {1000, 512}, .data = bytes(weights)}));
  OSTRACA_RETURN_IF_ERROR(
      writer->add({.path = key_path_from_name("ids"), .dtype = DType::kInt64, .shape = {5}, .data = bytes(ids)}));
  OSTRACA_ASSIGN_OR_RETURN(const FileReport report, writer->finish());
  OSTRACA_ASSIGN_OR_RETURN(const std::string manifest, commit(path, {report}, {.step = 1, .overwrite = true}));
  std::printf("%s", manifest.c_str());

  OSTRACA_ASSIGN_OR_RETURN(const auto reader, Reader::open(path));
  std::vector<float> rows(2 * 512);  // rows 10 and 11 of leaf 0, "layer/w"
  const ReadRequest request{
      .leaf = 0, .start = {10, 0}, .shape = {2, 512}, .data = reinterpret_cast<std::byte*>(rows.data())};
  OSTRACA_RETURN_IF_ERROR(reader->read_into({&request, 1}));
  if (rows != std::vector<float>(2 * 512, 0.5f)) return mismatch("the rows read are not those written");

  OSTRACA_ASSIGN_OR_RETURN(const VerifyReport checked, verify(path, true));
  return checked.ok() ? Status() : corruption("the checkpoint is damaged, or cannot be read");
}

int main(int argc, char** argv) {
  const Status status = argc == 2 ? run(argv[1]) : invalid_argument("usage: embed CHECKPOINT");
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
