// libFuzzer target: any bytes as a frozen index's blob. Whatever the content says, no method may read out of
// bounds or run forever. The header is made to agree with the bytes, as else nothing gets past it.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "csrc/checksum.h"
#include "csrc/error.h"
#include "csrc/frozen_index.h"

using redraft::FrozenCursor;
using redraft::FrozenHeader;
using redraft::FrozenIndex;

namespace {

void use(const FrozenIndex& index, const uint8_t* data, size_t size) {
  FrozenCursor cursor = index.start();
  for (size_t i = 0; i < size && i < 64; ++i) {
    const int32_t token = data[i] % 8;
    index.advance(cursor, std::span(&token, 1));
    index.occurrences(cursor);
    int drafted = 0;
    index.walk(cursor, [&](uint32_t, int32_t, float, uint32_t) { return ++drafted < 32; });
    FrozenCursor shorter = cursor;
    index.shorten_to_continuation(shorter);
    FrozenIndex::Next next;
    if (shorter.length > 0 && index.next(shorter, index.occurrences(shorter).weight, next)) {
      index.weight_next(shorter, next.token);
      FrozenIndex::follow(shorter, next);
      index.occurrences(shorter);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    use(FrozenIndex(data, size, nullptr, true), data, size);
  } catch (const redraft::Error&) {
  }
  if (size < sizeof(FrozenHeader)) return 0;
  std::vector<uint8_t> bytes(data, data + size);
  FrozenHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  std::memcpy(header.magic, redraft::kMagic, sizeof(header.magic));
  header.version = redraft::kFormatVersion;
  header.total_bytes = size;
  header.content_checksum =
      redraft::checksum(bytes.data() + sizeof(header), size - sizeof(header), header.version);
  header.header_checksum =
      redraft::checksum(&header, offsetof(FrozenHeader, header_checksum), redraft::kFormatVersion);
  std::memcpy(bytes.data(), &header, sizeof(header));
  try {
    use(FrozenIndex(bytes.data(), size, nullptr, true), data, size);
  } catch (const redraft::Error&) {
  }
  return 0;
}
