"""Latencies in cycles, as the RTL has them."""

# Sequencer
START = -1  # start write to the first command request
COMMAND = 2  # per command
TAKE = 1  # a command in a queue to its engine's first check
END = 3  # HALT executed to done

# Load engine
TO_REQUEST, TO_REQUEST_WEIGHTS = 4, 3  # passed check of a LOAD, of a LOADW, to its first burst
JOB_TAKEN = 3  # a job unpacked to the request of the one that waited for its place
UNPACK = 3  # first beat to the first word written
NEXT_JOB = 3  # last word of a LOAD to the first of the next, when its beats wait

# Convolution engine
TO_GRANT = 4  # passed check of a CONV to its first segment
LANDING = 2  # segment granted to the first step that may use it
FINISH = 2  # last segment granted, or last sample taken, to the next command taken
REPORT = 8  # last chunk requantised to its row seen as finished
NEXT_ROW = 2  # last chunk of a row to the first of the next
OPERAND = -1  # first segment granted, at the earliest, to the first second operand read
SETTLE = 2  # last step until the array counts as idle

# Store engine
STORE_BEGIN = 2  # passed check of a STORE to its first sub-row
SUB_ROW = 2  # begin of a sub-row to its first fetch
PACKED = 2  # a word packed to its beat on the bus
SUB_ROW_END = 3  # last word of a sub-row to the begin of the next
RESPONSE = -1  # end of a row to its last response, besides the memory's latency
