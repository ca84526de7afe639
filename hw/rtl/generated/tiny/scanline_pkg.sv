// Rendered by codesign/hw/rtl_package.py from the specification; do not edit.
// Specification: tiny
package scanline_pkg;
  localparam int unsigned PixelLanes = 4;
  localparam int unsigned CiLanes = 4;
  localparam int unsigned CoLanes = 4;
  localparam int unsigned ChannelParts = 2;
  localparam int unsigned PartLanes = 2;
  localparam int unsigned LaneGroups = 2;
  localparam int unsigned Selectors = 4;
  localparam int unsigned WindowSlots = 8;
  localparam int unsigned SegmentPixels = 10;
  localparam int unsigned Banks = 16;
  localparam int unsigned BankBits = 4;
  localparam int unsigned BankWords = 512;
  localparam int unsigned BankAddrBits = 9;
  localparam int unsigned WordBits = 32;
  localparam int unsigned LaneBits = 2;
  localparam int unsigned RequantPixels = 2;
  localparam int unsigned RequantChunks = 2;
  localparam int unsigned WeightWords = 512;
  localparam int unsigned WeightAddrBits = 9;
  localparam int unsigned WeightWordBits = 128;
  localparam int unsigned FillWords = 512;
  localparam int unsigned FillAddrBits = 9;
  localparam int unsigned ParameterWords = 32;
  localparam int unsigned ParameterAddrBits = 5;
  localparam int unsigned StatisticWords = 1;
  localparam int unsigned StatisticAddrBits = 1;
  localparam int unsigned Tables = 2;
  localparam int unsigned TableBits = 1;
  localparam int unsigned Buffers = 32;
  localparam int unsigned BufferBits = 5;
  localparam int unsigned BusBytes = 8;
  localparam int unsigned BusBits = 64;
  localparam int unsigned BusShift = 3;
  localparam int unsigned BurstShift = 7;
  localparam int unsigned LoadFifoBeats = 64;
  localparam int unsigned StoreFifoBeats = 32;
  localparam int unsigned QueueDepth = 4;
  localparam int unsigned CommandSlots = 64;
  localparam int unsigned CommandBytes = 64;
  localparam int unsigned CommandBits = 512;
  localparam int unsigned TableBytes = 256;
  localparam int unsigned LoopDepth = 4;
  localparam int unsigned ReadsInFlight = 32;
  localparam int unsigned WindowBeats = 2;
  localparam int unsigned WindowLanes = 4;
  localparam int unsigned WindowRowWords = 1;
  localparam int unsigned Sources = 5;
  localparam int unsigned Counters = 21;
  localparam int unsigned CountersBase = 128;
  localparam int unsigned Causes = 10;
  localparam bit Sampler = 1'b0;
  localparam bit Windows = 1'b0;
  localparam bit Correlator = 1'b0;
  localparam bit Normaliser = 1'b0;
  localparam bit LayerNorm = 1'b0;

  localparam logic [7:0] OpBuffer = 8'd1;
  localparam logic [7:0] OpLoop = 8'd2;
  localparam logic [7:0] OpEnd = 8'd3;
  localparam logic [7:0] OpLoadw = 8'd4;
  localparam logic [7:0] OpLoad = 8'd5;
  localparam logic [7:0] OpConv = 8'd6;
  localparam logic [7:0] OpCorr = 8'd20;
  localparam logic [7:0] OpWarp = 8'd19;
  localparam logic [7:0] OpResize = 8'd18;
  localparam logic [7:0] OpWindow = 8'd21;
  localparam logic [7:0] OpLayerNorm = 8'd22;
  localparam logic [7:0] OpStore = 8'd7;
  localparam logic [7:0] OpSync = 8'd8;
  localparam logic [7:0] OpHalt = 8'd15;
  localparam logic [2:0] KindWeights = 3'd0;
  localparam logic [2:0] KindSteps = 3'd1;
  localparam logic [2:0] KindFills = 3'd2;
  localparam logic [2:0] KindParameters = 3'd3;
  localparam logic [2:0] KindTable = 3'd4;
  localparam logic [2:0] KindNorm = 3'd5;
  localparam logic [7:0] CauseNone = 8'd0;
  localparam logic [7:0] CauseIllegalCommand = 8'd1;
  localparam logic [7:0] CauseBusRead = 8'd2;
  localparam logic [7:0] CauseBusWrite = 8'd3;
  localparam logic [7:0] CauseReadWindow = 8'd4;
  localparam logic [7:0] CauseWriteWindow = 8'd5;
  localparam logic [7:0] CauseLoopNesting = 8'd6;
  localparam logic [9:0] RegIdentity = 10'h000;
  localparam logic [9:0] RegControl = 10'h004;
  localparam logic [9:0] RegStatus = 10'h008;
  localparam logic [9:0] RegErrorCause = 10'h00c;
  localparam logic [9:0] RegErrorAddress = 10'h010;
  localparam logic [9:0] RegInterruptEnable = 10'h014;
  localparam logic [9:0] RegInterrupt = 10'h018;
  localparam logic [9:0] RegMemoryBaseLow = 10'h020;
  localparam logic [9:0] RegMemoryBaseHigh = 10'h024;
  localparam logic [9:0] RegMemoryBytes = 10'h028;
  localparam logic [9:0] RegCommandAddress = 10'h02c;
  localparam logic [9:0] RegCommandCount = 10'h030;
  localparam logic [9:0] RegWriteFirst = 10'h034;
  localparam logic [9:0] RegWriteEnd = 10'h038;
  localparam int unsigned CountCycles = 0;
  localparam int unsigned CountBusyCycles = 1;
  localparam int unsigned CountLoadStallCycles = 2;
  localparam int unsigned CountStoreStallCycles = 3;
  localparam int unsigned CountWeightsStallCycles = 4;
  localparam int unsigned CountRequantiseStallCycles = 5;
  localparam int unsigned CountControlStallCycles = 6;
  localparam int unsigned CountFillStallCycles = 7;
  localparam int unsigned CountDrainStallCycles = 8;
  localparam int unsigned CountSampleStallCycles = 9;
  localparam int unsigned CountNormaliseStallCycles = 10;
  localparam int unsigned CountDramCommandReadBeats = 11;
  localparam int unsigned CountDramWeightReadBeats = 12;
  localparam int unsigned CountDramLoadReadBeats = 13;
  localparam int unsigned CountDramGatherReadBeats = 14;
  localparam int unsigned CountGatheredReads = 15;
  localparam int unsigned CountDramWriteBeats = 16;
  localparam int unsigned CountScratchpadReadWords = 17;
  localparam int unsigned CountScratchpadWriteWords = 18;
  localparam int unsigned CountRequantisedValues = 19;
  localparam int unsigned CountCommands = 20;
  localparam logic [1:0] PlaneWhole = 2'd0;
  localparam logic [1:0] PlaneHigh = 2'd1;
  localparam logic [1:0] PlaneLow = 2'd2;

  typedef struct packed {
    logic freed_by_conv;
    logic freed_by_store;
    logic operand;
    logic [7:0] halo;
    logic loaded;
    logic signed [7:0] zero_point;
    logic [15:0] height;
    logic [15:0] width;
    logic [11:0] groups;
    logic [15:0] group_pitch;
    logic [15:0] row_pitch;
    logic [15:0] rows;
    logic [15:0] base;
    logic [5:0] id;
  } buffer_cmd_t;

  typedef struct packed {
    logic [23:0] count;
  } loop_cmd_t;

  typedef struct packed {
    logic [15:0] gap;
    logic [23:0] byte_count;
    logic [31:0] address;
    logic [23:0] elements;
    logic [15:0] destination;
    logic [3:0] lut;
    logic [2:0] kind;
  } loadw_cmd_t;

  typedef struct packed {
    logic [15:0] x_count;
    logic [15:0] x_first;
    logic [11:0] group;
    logic [31:0] row_bytes;
    logic signed [7:0] skip;
    logic [15:0] pixel_pitch;
    logic [15:0] pixel_bytes;
    logic [31:0] row_stride;
    logic [31:0] address;
    logic [15:0] delay;
    logic [5:0] buf_id;
  } load_cmd_t;

  typedef struct packed {
    logic [7:0] statistics_base;
    logic statistics_begin;
    logic statistics;
    logic [15:0] x_count;
    logic [15:0] x_first;
    logic [15:0] channel_step;
    logic [15:0] channel;
    logic [15:0] pixel_pitch;
    logic [15:0] pixel_bytes;
    logic [31:0] sub_stride;
    logic [7:0] sub_rows;
    logic [31:0] row_stride;
    logic [31:0] address;
    logic [15:0] delay;
    logic [5:0] buf_id;
  } store_cmd_t;

  typedef struct packed {
    logic signed [15:0] x_offset;
    logic signed [6:0] pad_rows;
    logic [5:0] kernel_rows;
    logic [4:1] free;
    logic free_source;
    logic signed [4:1][7:0] x_delta;
    logic [2:0] more_sources;
    logic [4:0][5:0] source;
  } sources_t;

  typedef struct packed {
    logic [3:0] lut;
    logic table_enable;
    logic signed [7:0] zero_point;
    logic signed [7:0] qmax;
    logic signed [7:0] qmin;
  } epilogue_t;

  typedef struct packed {
    logic free;
    logic signed [15:0] x_offset;
    logic [3:0] channel;
    logic broadcast;
    logic [5:0] buf_id;
    logic enable;
  } operand_t;

  typedef struct packed {
    logic signed [7:0] qmax;
    logic signed [7:0] qmin;
    logic signed [7:0] zero_point;
    logic [5:0] shift;
    logic signed [31:0] other_multiplier;
    logic signed [31:0] multiplier;
    logic signed [7:0] value_zero_point;
    logic product;
  } merge_t;

  typedef struct packed {
    merge_t merge;
    operand_t operand;
    epilogue_t epilogue;
    sources_t sources;
    logic [15:0] parameters_base;
    logic [11:0] group;
    logic [11:0] words;
    logic [15:0] weights_needed;
    logic [15:0] delay;
    logic [5:0] destination;
  } row_cmd_t;

  typedef struct packed {
    logic [51:0] padding;
    logic [1:0] lane_groups_log2;
    logic edge_pixels;
    logic [1:0] x_stride;
    logic [2:0] stride_rows;
    logic [11:0] fills_repeat;
    logic [11:0] fills_count;
    logic [15:0] fills_base;
    logic [15:0] steps_count;
    logic [15:0] steps_base;
  } conv_payload_t;

  typedef struct packed {
    logic [2:0] padding;
    logic [31:0] row_stride;
    logic [31:0] address;
    logic edge_pixels;
    logic [3:0] fraction_bits;
    logic [11:0] channels;
    logic [15:0] pixel_pitch;
    logic [15:0] frame_width;
    logic [15:0] x_first;
  } warp_payload_t;

  typedef struct packed {
    logic [31:0] padding;
    logic [31:0] step_y;
    logic [31:0] step_x;
    logic flow;
    logic [2:0] enlarge_log2;
    logic [15:0] frame_width;
    logic [15:0] x_first;
  } resize_payload_t;

  typedef struct packed {
    logic [31:0] row_stride;
    logic [31:0] address;
    logic [3:0] fraction_bits;
    logic [3:0] level;
    logic [3:0] radius;
    logic signed [7:0] map_zero_point;
    logic [15:0] map_height;
    logic [15:0] map_width;
    logic [15:0] x_first;
  } window_payload_t;

  typedef struct packed {
    logic [51:0] padding;
    logic [38:0] norm_epsilon;
    logic [23:0] norm_reciprocal;
    logic [3:0] norm_doublings;
    logic [12:0] norm_channels;
  } layer_norm_payload_t;

  typedef union packed {
    conv_payload_t conv;
    warp_payload_t warp;
    resize_payload_t resize;
    window_payload_t window;
    layer_norm_payload_t layer_norm;
  } payload_t;

  typedef enum logic [2:0] {
    ComputeConv,
    ComputeCorr,
    ComputeWarp,
    ComputeResize,
    ComputeWindow,
    ComputeLayerNorm
  } compute_e;

  typedef struct packed {
    compute_e compute;
    payload_t payload;
    row_cmd_t row;
  } compute_cmd_t;

  typedef struct packed {
    logic [2:0] source;
    logic [11:0] group;
    logic signed [8:0] column;
    logic [5:0] row;
  } fill_word_t;

  typedef struct packed {
    logic [3:0] places;
    logic [4:0] shift;
    logic [54:0] epsilon;
    logic reserved;
    logic [7:0] word;
    logic [30:0] multiplier;
    logic [23:0] count;
  } norm_record_t;

  typedef struct packed {
    logic [37:0] squares;
    logic signed [31:0] total;
  } statistic_t;

  typedef struct packed {
    logic part;
    logic [2:0] shift;
    logic [2:0] slot;
  } selector_t;

  typedef struct packed {
    logic carry;
    logic last;
    logic [3:0] free;
    selector_t [Selectors-1:0] selectors;
  } step_word_t;

  typedef struct packed {
    logic [1:0] plane;
    logic [5:0] shift;
    logic signed [31:0] negative_multiplier;
    logic signed [31:0] multiplier;
    logic signed [31:0] bias;
  } parameter_t;

  function automatic logic is_row(input logic [7:0] opcode);
    unique case (opcode)
      OpConv: return 1'b1;
      OpCorr: return 1'b1;
      OpWarp: return 1'b1;
      OpResize: return 1'b1;
      OpWindow: return 1'b1;
      OpLayerNorm: return 1'b1;
      default: return 1'b0;
    endcase
  endfunction

  function automatic compute_e compute_of(input logic [7:0] opcode);
    unique case (opcode)
      OpConv: return ComputeConv;
      OpCorr: return ComputeCorr;
      OpWarp: return ComputeWarp;
      OpResize: return ComputeResize;
      OpWindow: return ComputeWindow;
      OpLayerNorm: return ComputeLayerNorm;
      default: return ComputeConv;
    endcase
  endfunction

  function automatic logic has_unit(input logic [7:0] opcode);
    unique case (opcode)
      OpCorr: return Correlator;
      OpWarp: return Sampler;
      OpResize: return Sampler;
      OpWindow: return Windows;
      OpLayerNorm: return LayerNorm;
      default: return 1'b1;
    endcase
  endfunction

  function automatic logic is_beside(input compute_e compute);
    unique case (compute)
      ComputeWarp: return 1'b1;
      ComputeResize: return 1'b1;
      ComputeWindow: return 1'b1;
      ComputeLayerNorm: return 1'b1;
      default: return 1'b0;
    endcase
  endfunction

  function automatic logic is_streamed(input compute_e compute);
    unique case (compute)
      ComputeLayerNorm: return 1'b1;
      default: return 1'b0;
    endcase
  endfunction

  function automatic int unsigned stall_beside(input compute_e compute);
    unique case (compute)
      ComputeWarp: return CountSampleStallCycles;
      ComputeResize: return CountSampleStallCycles;
      ComputeWindow: return CountSampleStallCycles;
      ComputeLayerNorm: return CountNormaliseStallCycles;
      default: return CountCycles;
    endcase
  endfunction

endpackage
