// memcpy for what nobody reads soon.
#pragma once

#include <cstddef>

namespace ostraca {

// Copies past the caches: a store that goes through them first reads the line that it replaces, and drives out others.
// The copy is complete, for other threads too, when it returns. REQUIRES: the two do not overlap.
void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes);

// The same for one piece of many: it need not be complete, not even for this thread's next stores, before
// stream_fence(). A fence for each would have every piece wait for the memory.
void stream_piece(std::byte* to, const std::byte* from, std::size_t bytes);
void stream_fence();

}  // namespace ostraca
