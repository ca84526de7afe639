// What the engines tell each other about rows and buffers.
package scanline_row_pkg;
  import scanline_pkg::*;

  // A rolling buffer as an engine sees it: what BUFFER configured, and where its rows stand.
  typedef struct packed {
    logic [15:0] base;
    logic [15:0] rows;
    logic [15:0] row_pitch;
    logic [15:0] group_pitch;
    logic [15:0] width;
    logic [15:0] height;
    logic signed [7:0] zero_point;
    logic loaded;
    logic [7:0] halo;        // words of a computed row that LOAD fills
    logic operand;
    logic freed_by_store;
    logic freed_by_conv;
  } buffer_config_t;

  typedef struct packed {
    buffer_config_t cfg;
    logic [15:0] next_row;   // the next row to be produced ...
    logic [15:0] next_slot;  // ... and its slot
    logic [15:0] done;       // rows that may be read: loaded, computed, or with a halo both
    logic [15:0] computed;
    logic free_late;         // rows are freed with the last value of a CONV row instead of its last read
    logic [15:0] freed;      // rows that may be overwritten
    logic [15:0] stored;     // rows that a STORE has taken
  } buffer_view_t;

  // One row on its way from the front through the array to the requantiser; one that a unit beside the array makes passes it by.
  typedef struct packed {
    logic [BufferBits-1:0] destination;
    logic [BufferBits-1:0] source;
    logic [15:0] pixel_groups;
    logic [WeightAddrBits-1:0] steps_base;
    logic [15:0] steps_count;
    logic [1:0] lane_groups_log2;
    compute_e compute;
    logic [11:0] words;
    logic [ParameterAddrBits-1:0] parameters_base;
    epilogue_t epilogue;
    logic [15:0] row_address;
    logic [15:0] group_pitch;
    logic [15:0] width;
    logic free_source;
    logic [15:0] free_source_to;
    operand_t operand;
    merge_t merge;
    logic [15:0] add_free_to;
    logic [15:0] add_row_address;
    logic [15:0] add_group_pitch;
    logic [15:0] add_width;
    logic signed [7:0] add_operand_zero_point;
  } row_t;

  // A source's rows on chip while a row is computed.
  typedef struct packed {
    logic [15:0] next_row;
    logic [15:0] next_slot;
    logic [15:0] base;
    logic [15:0] rows;
    logic [15:0] row_pitch;
    logic [15:0] group_pitch;
    logic [15:0] width;
    logic signed [7:0] zero_point;
    logic signed [7:0] x_delta;
  } reading_t;

  // A row that a unit beside the array makes: what all commands have in common, and the payload that is the unit's own.
  typedef struct packed {
    compute_e compute;
    payload_t payload;
    logic [15:0] y;
    logic [15:0] pixel_groups;
    logic [15:0] width;
    logic [11:0] words;
    logic signed [15:0] x_offset;
    logic [15:0] height;           // of the source
    logic [15:0] first_row;        // rows of the source on chip
    logic [15:0] end_row;
    reading_t source;
    logic free_source;             // when it has been read: rows of the source that the unit, if it keeps the row, frees
    logic [BufferBits-1:0] source_id;
    logic [15:0] free_source_to;
    logic [15:0] operand_address;  // of the second operand's row
    logic signed [15:0] operand_x;
    logic [15:0] operand_width;
  } unit_row_t;

  // A WARP's row: where its source's rows and their flow are on chip, and the source's frame in memory. Or a RESIZE's: its
  // steps across and down stand where that frame would be.
  typedef struct packed {
    logic [15:0] y;
    logic [15:0] pixel_groups;
    logic [15:0] width;
    logic [11:0] words;
    logic [15:0] frame_x;       // of the first pixel
    logic [15:0] frame_width;
    logic [15:0] frame_height;
    logic [15:0] x_first;       // the frame's column that the buffer's first pixel is
    logic [15:0] window_first;  // rows on chip
    logic [15:0] window_end;
    logic [15:0] next_row;
    logic [15:0] next_slot;
    logic [15:0] base;
    logic [15:0] rows;
    logic [15:0] row_pitch;
    logic [15:0] group_pitch;
    logic [15:0] source_width;
    logic signed [7:0] zero_point;
    logic [15:0] flow_address;
    logic signed [15:0] flow_x;
    logic [15:0] flow_width;
    logic [31:0] address;
    logic [31:0] row_stride;
    logic [15:0] pixel_pitch;
    logic [11:0] channels;
    logic [3:0] fraction_bits;
    logic edge_pixels;
    logic steps;                // places by steps, as a RESIZE has them, no flow
    logic wide;                 // the source is a flow
  } sample_row_t;

  // A WINDOW's row: where its flow is on chip, and the maps of its pixels in memory.
  typedef struct packed {
    logic [15:0] y;
    logic [15:0] pixel_groups;
    logic [15:0] width;
    logic [15:0] frame_x;       // of the first pixel
    logic [15:0] map_width;
    logic [15:0] map_height;
    logic signed [7:0] zero_point;
    logic [15:0] flow_address;
    logic signed [15:0] flow_x;
    logic [15:0] flow_width;
    logic [31:0] address;
    logic [31:0] row_stride;
    logic [2:0] radius;
    logic [2:0] level;
    logic [3:0] fraction_bits;
  } window_row_t;

  // One row of one pixel's window, on its way from memory: bytes [first, past) from `offset` on, in one beat or two.
  typedef struct packed {
    logic low;
    logic high;
    logic [BusShift-1:0] offset;
    logic [4:0] first;
    logic [4:0] past;
    logic [7:0] right_share;
    logic [7:0] lower_share;
  } window_entry_t;

  // Columns of a window of `side` columns that are fetched together with its column `first`.
  function automatic logic [3:0] window_columns(input logic [3:0] side, input logic [3:0] first);
    return (32'(side - first) < WindowLanes) ? side - first : 4'(WindowLanes);
  endfunction

  // A request for `Banks` consecutive pixels of one channel group: address of the row's words and first pixel.
  typedef struct packed {
    logic [15:0] address;
    logic signed [17:0] x;
    logic [15:0] width;
    logic row_valid;
    logic edge_pixels;  // beyond the row reads as its first or last pixel, else as the zero point
    logic signed [7:0] zero_point;
  } segment_request_t;

  // Ports, in bundles. What is wide stands last, so that its words lie as they would alone.

  // A read of the scratchpad, whose data comes in the cycle after the grant.
  typedef struct packed {
    logic valid;
    segment_request_t at;
  } segment_read_t;
  typedef logic [Banks-1:0][WordBits-1:0] segment_data_t;

  // A read or a write of the program's memory: a burst of len + 1 beats from `offset` on.
  typedef struct packed {
    logic valid;
    logic [31:0] offset;
    logic [7:0] len;
  } burst_t;
  typedef struct packed {
    logic valid;
    logic [BusBits-1:0] data;
  } read_beat_t;
  typedef struct packed {
    logic valid;
    logic last;
    logic [BusBytes-1:0] strobe;
    logic [BusBits-1:0] data;
  } write_beat_t;

  // An address outside the program's memory, or its write window.
  typedef struct packed {
    logic valid;
    logic [31:0] address;
  } window_error_t;

  // Psums of one pixel and one channel group, made beside the array.
  typedef struct packed {
    logic valid;
    logic [LaneBits-1:0] pixel;
    logic [11:0] word;
    logic [CiLanes-1:0][31:0] data;
  } psum_write_t;

  // Psums that a unit hands to the requantiser past the array's registers, in the order in which that takes them: pixel
  // groups, channel groups, chunks of a group's pixels.
  typedef struct packed {
    logic valid;
    logic [RequantPixels-1:0][CiLanes-1:0][31:0] data;
  } psum_chunk_t;

  // One element of a LOADW; `index` counts from its start.
  typedef struct packed {
    logic valid;
    logic [2:0] kind;
    logic [3:0] lut;
    logic [23:0] index;
    logic [15:0] base;
    logic [BusBits-1:0] data;
  } element_t;

  // Writes of the scratchpad: aligned pixels of the requantiser, or one word of the load engine.
  typedef struct packed {
    logic valid;
    logic [15:0] address;
    logic [15:0] x;
    logic [RequantPixels-1:0] mask;
    logic [RequantPixels-1:0][WordBits-1:0] data;
  } drain_write_t;
  typedef struct packed {
    logic valid;
    logic [15:0] address;
    logic [15:0] x;
    logic [WordBits-1:0] data;
  } word_write_t;

  // A buffer's next row is complete; rows of a buffer below `to` may be overwritten.
  typedef struct packed {
    logic valid;
    logic [BufferBits-1:0] id;
  } row_done_t;
  typedef struct packed {
    logic valid;
    logic [BufferBits-1:0] id;
    logic [15:0] to;
  } rows_freed_t;

  // Codes of a word that a STORE counts: added to the statistics, or the first of them. Bytes that do not count are zero.
  typedef struct packed {
    logic valid;
    logic begins;
    logic [StatisticAddrBits-1:0] addr;
    logic [WordBits-1:0] codes;
  } count_t;

  // The end of a read of `count` pixels from `x` in a row of `width` pixels: banks beyond it are left alone.
  function automatic logic [15:0] segment_end(input logic signed [17:0] x, input logic signed [17:0] count,
                                              input logic [15:0] width);
    logic signed [17:0] last;
    last = x + count;
    if (last < 0) return '0;
    return (last < signed'({2'b0, width})) ? last[15:0] : width;
  endfunction

  // Why the front of the convolution engine waits.
  typedef enum logic [2:0] {
    WaitNone,
    WaitLoad,
    WaitStore,
    WaitWeights,
    WaitDrain
  } wait_e;

  // What the engines do in a cycle, for the counters.
  typedef struct packed {
    wait_e front_wait;
    logic front_busy;
    logic array_busy;
    logic issue;
    logic wait_segment;
    logic wait_psum;
    logic beside;    // a unit beside the array makes a row ...
    compute_e unit;  // ... of this kind
    logic drain_busy;
    logic gather_beat;
    logic gathered;
    logic [15:0] values;  // requantised
  } conv_activity_t;
  typedef struct packed {
    logic busy;
    logic wait_store;  // wants space that a STORE frees
    logic weight_beat;
    logic load_beat;
  } load_activity_t;

  // The slot of row `row` in a buffer whose next row and slot are known; needs row in [next_row - rows, next_row).
  function automatic logic [15:0] slot_of(input logic [15:0] row, input logic [15:0] next_row,
                                          input logic [15:0] next_slot, input logic [15:0] rows);
    logic [15:0] back;
    back = next_row - row;
    return (next_slot >= back) ? next_slot - back : next_slot + rows - back;
  endfunction

endpackage
